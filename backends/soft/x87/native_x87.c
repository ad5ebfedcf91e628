/* Runs one x87 operation natively for each record on standard input, and writes what the CPU made of it.
 * In:  u16 operation, u16 control word, 10 bytes a, 10 bytes b (24 bytes).
 * Out: 10 bytes result (or an integer/IEEE number, zero-padded), u16 status word (12 bytes). */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct in { uint16_t op, cw; uint8_t a[10], b[10]; } __attribute__((packed));
struct out { uint8_t r[10]; uint16_t sw; } __attribute__((packed));

int main(void) {
  struct in i;
  while (fread(&i, sizeof i, 1, stdin) == 1) {
    struct out o;
    memset(&o, 0, sizeof o);
    uint8_t *r = o.r;
#define RUN(load, insn, store) \
  __asm__ volatile("fninit\n" load "\n fldcw %[cw]\n fnclex\n" insn "\n fnstsw %[sw]\n" store "\n fninit\n" \
                   : [sw] "=m"(o.sw) : [cw] "m"(i.cw), [a] "m"(i.a), [b] "m"(i.b), [r] "r"(r) : "memory", "ax")
/* Drops the second result, which is not there when C2 says that the operand was out of range. */
#define POP_SECOND "fnstsw %%ax\n test $4, %%ah\n jnz 1f\n fstp %%st(0)\n1: "
    switch (i.op) {
      case 0: RUN("fldt %[b]\n fldt %[a]", "fadd %%st(1), %%st", "fstpt (%[r])"); break;
      case 1: RUN("fldt %[b]\n fldt %[a]", "fmul %%st(1), %%st", "fstpt (%[r])"); break;
      case 2: RUN("fldt %[b]\n fldt %[a]", "fdiv %%st(1), %%st", "fstpt (%[r])"); break;
      case 3: RUN("fldt %[a]", "fsqrt", "fstpt (%[r])"); break;
      case 4: RUN("fldt %[a]", "frndint", "fstpt (%[r])"); break;
      case 5: RUN("fldt %[b]\n fldt %[a]", "fscale", "fstpt (%[r])"); break;
      case 6: RUN("fldt %[b]\n fldt %[a]", "fprem", "fstpt (%[r])"); break;
      case 7: RUN("fldt %[b]\n fldt %[a]", "fprem1", "fstpt (%[r])"); break;
      case 8: RUN("fldt %[b]\n fldt %[a]", "fcom %%st(1)", ""); break;
      case 9: RUN("fldt %[b]\n fldt %[a]", "fucom %%st(1)", ""); break;
      case 10: RUN("", "fildll %[a]", "fstpt (%[r])"); break;
      case 11: RUN("", "fldl %[a]", "fstpt (%[r])"); break;
      case 12: RUN("", "flds %[a]", "fstpt (%[r])"); break;
      case 13: RUN("fldt %[a]", "fstpl (%[r])", ""); break;
      case 14: RUN("fldt %[a]", "fstps (%[r])", ""); break;
      case 15: RUN("fldt %[a]", "fistps (%[r])", ""); break;
      case 16: RUN("fldt %[a]", "fistpl (%[r])", ""); break;
      case 17: RUN("fldt %[a]", "fistpll (%[r])", ""); break;
      case 18: RUN("fldt %[a]", "f2xm1", "fstpt (%[r])"); break;
      case 19: RUN("fldt %[b]\n fldt %[a]", "fyl2x", "fstpt (%[r])"); break;
      case 20: RUN("fldt %[b]\n fldt %[a]", "fyl2xp1", "fstpt (%[r])"); break;
      case 21: RUN("fldt %[b]\n fldt %[a]", "fpatan", "fstpt (%[r])"); break;
      case 22: RUN("fldt %[a]", "fptan", POP_SECOND "fstpt (%[r])"); break;
      case 23: RUN("fldt %[a]", "fsin", "fstpt (%[r])"); break;
      case 24: RUN("fldt %[a]", "fcos", "fstpt (%[r])"); break;
      case 25: RUN("fldt %[a]", "fsincos", POP_SECOND "fstpt (%[r])"); break;
      case 26: RUN("fldt %[a]", "fsincos", "fstpt (%[r])"); break;
      default: return 1;
    }
    fwrite(&o, sizeof o, 1, stdout);
  }
  return 0;
}

/*
 * Guest programs of bench/soft.ts: one is chosen by -DPROGRAM=name, it works in proportion to -DCOUNT. No libraries. With
 * -m32 those of plain computing, where a u64 has 32 bits.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define MEGABYTE 0x100000UL
#define ARENA ((u8 *)(4 * MEGABYTE))

static void nothing(u64 count) { (void)count; }

static void dec_jnz(u64 count) {
  __asm__ volatile("1: dec %0\n jnz 1b" : "+r"(count));
}

static void alu_mix(u64 count) {
  u64 a = 1, b = 3, c = 5;
  __asm__ volatile(
      "1: add %1, %2\n xor %2, %3\n lea 7(%1,%3,2), %1\n rol $5, %3\n sub %1, %2\n and $0xfffffff, %1\n"
      "shr $1, %2\n or $1, %2\n dec %0\n jnz 1b"
      : "+r"(count), "+r"(a), "+r"(b), "+r"(c));
}

#ifdef __x86_64__
static void loads_stores(u64 count) {
  u64 at = 0, sum = 0;
  __asm__ volatile(
      "1: mov (%3,%1), %%rax\n add 8(%3,%1), %%rax\n mov %%rax, 16(%3,%1)\n add $8, %1\n and $0xffff, %1\n"
      "add %%rax, %2\n dec %0\n jnz 1b"
      : "+r"(count), "+r"(at), "+r"(sum)
      : "r"(ARENA)
      : "rax", "memory");
}

#endif

static void sieve(u64 count) {
  enum { SIZE = 1 << 18 };
  u8 *composite = ARENA;
  while (count--) {
    for (u32 i = 0; i < SIZE; i++) composite[i] = 0;
    for (u32 i = 2; i * i < SIZE; i++)
      if (!composite[i])
        for (u32 j = i * i; j < SIZE; j += i) composite[j] = 1;
  }
}

/* FIPS 180-4, 6.2 */
static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
    0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
    0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
    0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2};
static u32 ror(u32 x, int n) { return (x >> n) | (x << (32 - n)); }
static void sha256(u64 count) {
  u32 *w = (u32 *)ARENA;
  u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  while (count--) {
    for (int i = 0; i < 16; i++) w[i] = h[i & 7] + i;
    for (int i = 16; i < 64; i++) {
      u32 s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ (w[i - 15] >> 3);
      u32 s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    u32 s[8];
    for (int i = 0; i < 8; i++) s[i] = h[i];
    for (int i = 0; i < 64; i++) {
      u32 s1 = ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25);
      u32 t1 = s[7] + s1 + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
      u32 s0 = ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22);
      u32 t2 = s0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      for (int k = 7; k > 0; k--) s[k] = s[k - 1];
      s[4] += t1;
      s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
  }
  ((volatile u32 *)ARENA)[0] = h[0];
}

/* A small stack machine; the switch becomes an indirect jump. */
static void switch_interpreter(u64 count) {
  static const u8 program[] = {0, 1, 2, 3, 1, 4, 2, 5, 3, 6, 1, 7};
  u64 a = 1, b = 2, steps = count;
  u32 pc = 0;
  while (steps) {
    switch (program[pc++]) {
      case 0: a += b; break;
      case 1: b ^= a; break;
      case 2: a <<= 1; break;
      case 3: b -= a; break;
      case 4: a |= 5; break;
      case 5: b += 77; break;
      case 6: a ^= b >> 3; break;
      case 7: pc = 0; steps--; break;
      case 8: return;
    }
    __asm__ volatile("" : "+r"(a), "+r"(b));
  }
}

#ifdef __x86_64__
static void rep_movsb(u64 count) {
  while (count--) {
    u8 *to = ARENA + 4 * MEGABYTE, *from = ARENA;
    u64 bytes = MEGABYTE;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
  }
}
static void rep_stosq(u64 count) {
  while (count--) {
    u8 *to = ARENA;
    u64 words = MEGABYTE / 8;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(0) : "memory");
  }
}
static void copy8(u64 count) {
  while (count--) {
    u64 at = 0;
    __asm__ volatile("1: mov (%1,%0), %%rax\n mov %%rax, (%2,%0)\n add $8, %0\n cmp $0x100000, %0\n jb 1b"
                     : "+r"(at)
                     : "r"(ARENA), "r"(ARENA + 4 * MEGABYTE)
                     : "rax", "memory");
  }
}
static void copy16(u64 count) {
  while (count--) {
    u64 at = 0;
    __asm__ volatile(
        "1: movaps (%1,%0), %%xmm0\n movaps 16(%1,%0), %%xmm1\n movaps %%xmm0, (%2,%0)\n movaps %%xmm1, 16(%2,%0)\n"
        "add $32, %0\n cmp $0x100000, %0\n jb 1b"
        : "+r"(at)
        : "r"(ARENA), "r"(ARENA + 4 * MEGABYTE)
        : "memory");
  }
}
static void sse2_double(u64 count) {
  double x = 0.5, y = 0.25, a = 0.999999, b = 1e-6;
  __asm__ volatile("1: mulsd %3, %1\n addsd %4, %1\n mulsd %3, %2\n addsd %1, %2\n subsd %4, %2\n mulsd %3, %2\n"
                   "dec %0\n jnz 1b"
                   : "+r"(count), "+x"(x), "+x"(y)
                   : "x"(a), "x"(b));
}

/* Privileged paths: page tables, descriptors and handlers of their own. */
#define TABLES ((u64 *)0x90000)
static u64 gdt[8] __attribute__((aligned(16)));
static struct { unsigned short limit; u64 base; } __attribute__((packed)) table_pointer;
static u64 idt[64] __attribute__((aligned(16)));
static u32 tss[32] __attribute__((aligned(16)));

static void write_msr(u32 index, u64 value) {
  __asm__ volatile("wrmsr" ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
}
static void prepare(void) {
  u64 *top = TABLES, *middle = TABLES + 512, *directory = TABLES + 1024;
  for (int i = 0; i < 1536; i++) top[i] = 0;
  top[0] = (u64)middle | 7;
  middle[0] = (u64)directory | 7;
  for (u64 i = 0; i < 16; i++) directory[i] = i << 21 | 0xe7;
  __asm__ volatile("mov %0, %%cr3" ::"r"(top) : "memory");
  gdt[1] = 0x00af9b000000ffff;
  gdt[2] = 0x00cf93000000ffff;
  gdt[3] = 0x00cffb000000ffff;
  gdt[4] = 0x00cff3000000ffff;
  gdt[5] = 0x00affb000000ffff;
  u64 base = (u64)tss;
  gdt[6] = 0x0000890000000067 | (base & 0xffffff) << 16 | (base >> 24 & 255) << 56;
  gdt[7] = base >> 32;
  tss[1] = 0x60000;
  table_pointer.limit = sizeof gdt - 1;
  table_pointer.base = (u64)gdt;
  __asm__ volatile("lgdt %0\n ltr %w1" ::"m"(table_pointer), "r"(0x30));
}
__attribute__((naked, used)) static void system_call_entry(void) { __asm__("sysretq"); }
__attribute__((naked, used)) static void user_program(void) {
  __asm__("1: syscall\n dec %rbx\n jnz 1b\n movb $1, %al\n outb %al, $0xf4\n 2: jmp 2b");
}
static void system_call(u64 count) {
  prepare();
  write_msr(0xc0000080, 0x501);
  write_msr(0xc0000081, 0x0018000800000000);
  write_msr(0xc0000082, (u64)system_call_entry);
  write_msr(0xc0000084, 0);
  /* IOPL 3, so that the program may end the run. */
  __asm__ volatile("mov %0, %%rbx\n mov %1, %%rcx\n mov $0x3002, %%r11\n mov $0x68000, %%rsp\n sysretq" ::"r"(count),
                   "r"(user_program)
                   : "rbx", "rcx", "r11", "memory");
}
#define PAGE (ARENA + 8 * MEGABYTE)
__attribute__((naked, used)) static void page_fault_entry(void) {
  __asm__("push %rax\n mov 0x97000, %rax\n or $1, %rax\n mov %rax, 0x97000\n pop %rax\n add $8, %rsp\n iretq");
}
static void page_fault(u64 count) {
  prepare();
  u64 *table = (u64 *)0x97000, *directory = TABLES + 1024;
  table[0] = (u64)PAGE | 0x66;
  directory[(u64)PAGE >> 21] = (u64)table | 7;
  u64 handler = (u64)page_fault_entry;
  idt[28] = (handler & 0xffff) | 8 << 16 | 0x8e0000000000 | (handler >> 16 & 0xffff) << 48;
  idt[29] = handler >> 32;
  table_pointer.limit = sizeof idt - 1;
  table_pointer.base = (u64)idt;
  __asm__ volatile("mov %%cr3, %%rax\n mov %%rax, %%cr3\n lidt %0" ::"m"(table_pointer) : "rax", "memory");
  while (count--) {
    *(volatile u64 *)table = (u64)PAGE | 0x66;
    __asm__ volatile("invlpg (%0)\n mov (%0), %%rax" ::"r"(PAGE) : "rax", "memory");
  }
}

/* Two tasks, each with page tables of its own, that touch eight pages and give way to each other. */
__attribute__((naked, used)) static void give_way(u64 *save, u64 other, u64 tables) {
  __asm__(
      "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp, (%rdi)\n"
      "mov %rdx, %cr3\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret");
}
static u64 task_stacks[2];
#define SECOND_TABLES (TABLES + 1536)
static void touch(void) {
  for (u64 i = 0; i < 8; i++) ((volatile u8 *)ARENA)[i << 12]++;
}
static void second_task(void) {
  for (;;) {
    touch();
    give_way(&task_stacks[1], task_stacks[0], (u64)TABLES);
  }
}
static void context_switch(u64 count) {
  prepare();
  for (int i = 0; i < 1536; i++) SECOND_TABLES[i] = TABLES[i];
  SECOND_TABLES[0] = (u64)(SECOND_TABLES + 512) | 7;
  SECOND_TABLES[512] = (u64)(SECOND_TABLES + 1024) | 7;
  u64 *stack = (u64 *)0x78000;
  *--stack = 0;
  *--stack = (u64)second_task;
  task_stacks[1] = (u64)(stack - 6);
  while (count--) {
    touch();
    give_way(&task_stacks[0], task_stacks[1], (u64)SECOND_TABLES);
  }
}
#endif

/* Work that several vCPUs share: pieces taken from one counter, each sieved in memory of the vCPU's own. */
static volatile u64 pieces_taken;
#define parallel(count) take_pieces(count, vcpu)
static void take_pieces(u64 count, u64 vcpu) {
  enum { SIZE = 1 << 16 };
  u8 *composite = ARENA + vcpu * MEGABYTE;
  while (__atomic_fetch_add(&pieces_taken, 1, __ATOMIC_SEQ_CST) < count) {
    for (u32 i = 0; i < SIZE; i++) composite[i] = 0;
    for (u32 i = 2; i * i < SIZE; i++)
      if (!composite[i])
        for (u32 j = i * i; j < SIZE; j += i) composite[j] = 1;
  }
}

void main(u64 vcpu) {
  (void)vcpu;
#ifdef __x86_64__
  /* SSE on (SDM vol. 3, 14.1). */
  __asm__ volatile("mov %%cr0, %%rax\n and $~4, %%rax\n or $2, %%rax\n mov %%rax, %%cr0\n"
                   "mov %%cr4, %%rax\n or $0x600, %%rax\n mov %%rax, %%cr4" ::: "rax");
  u64 *directory = (u64 *)(*(u64 *)(*(u64 *)0x80000 & ~0xfffUL) & ~0xfffUL);
  if (*(u64 *)0x80000)
    for (u64 i = 0; i < 16; i++) directory[i] = i << 21 | 0xe3;
#endif
  PROGRAM(COUNT);
}

/* The 32-bit system guest: segment limits. */
#include "guest.h"

enum { CODE = 8, DATA = 0x10, UDATA = 0x1b, UCODE = 0x23, TSS = 0x28, TEST = 0x30, TEST2 = 0x38 };

extern const char *command_line;
static volatile word p1, p2, p3;

/* Where the image begins: limits in bytes end below 1 MiB, so segments begin here. */
#define IMAGE 0x100000

/* Offset and selector of a far transfer. */
static volatile struct { u32 offset; u16 selector; } __attribute__((packed)) far_pointer;

static void count_wrong(const char *name, int cases, int wrong) {
  print(name);
  field(" cases ", cases);
  field(" wrong ", wrong);
  print("\n");
}

/* An access of p2 bytes (1, 2, 4) to FS:p1; p3: a store. */
static void access(void) {
  switch (p2 | p3 << 4) {
    case 1: __asm__ volatile("movb %%fs:(%0), %%al" : : "r"(p1) : "eax"); break;
    case 2: __asm__ volatile("movw %%fs:(%0), %%ax" : : "r"(p1) : "eax"); break;
    case 4: __asm__ volatile("movl %%fs:(%0), %%eax" : : "r"(p1) : "eax"); break;
    case 0x11: __asm__ volatile("orb $0, %%fs:(%0)" : : "r"(p1) : "memory"); break;
    case 0x12: __asm__ volatile("orw $0, %%fs:(%0)" : : "r"(p1) : "memory"); break;
    case 0x14: __asm__ volatile("orl $0, %%fs:(%0)" : : "r"(p1) : "memory"); break;
  }
}
static void load_fs(void) { __asm__ volatile("mov %0, %%fs" : : "r"(TEST)); }

/* SDM vol. 3, 5.3 and 5.5: limits of expand-up and expand-down segments, and what may be written. */
static void data_limits(void) {
  static u8 area[0x3000] __attribute__((aligned(4096)));
  static const u32 limits[] = {0, 1, 3, 0xfff, 0x1000, 0xfffe, 0xffff, 0xffffe, 0xfffff};
  static const u8 types[] = {0x91, 0x93, 0x95, 0x97, 0x9b, 0x9f};
  int cases = 0, wrong = 0;
  for (unsigned l = 0; l < sizeof limits / sizeof *limits; l++)
  for (unsigned t = 0; t < sizeof types; t++)
  for (int flags = 0; flags < 4; flags++) {
    int big = flags & 1, granular = flags >> 1, code = types[t] >> 3 & 1, down = !code && (types[t] >> 2 & 1);
    gdt[TEST / 8] = descriptor((word)area + 0x1000, limits[l], types[t], big << 2 | granular << 3);
    u64 limit = granular ? ((u64)limits[l] << 12 | 0xfff) : limits[l];
    u32 offsets[] = {limit - 4, limit - 3, limit - 2, limit - 1, limit, limit + 1, limit + 2, 0, 0x800, 0xfffd, 0xffff, 0x10000,
                     0xfffff800, 0xfffffffc, 0xffffffff};
    if (try(load_fs) >= 0) { wrong++; continue; }
    for (unsigned o = 0; o < sizeof offsets / sizeof *offsets; o++)
    for (int size = 1; size <= 4; size *= 2)
    for (int store = 0; store < 2; store++) {
      u64 first = offsets[o], last = first + size - 1;
      /* Whether an access past 4 GiB is refused is the implementation's affair where there is no other limit. */
      if (last > 0xffffffff) continue;
      /* Stores stay in what is ours. */
      if (store && !(first < 0x1000 || first >= 0xfffff000)) continue;
      int outside = down ? first <= limit || last > (big ? 0xffffffffu : 0xffffu) : last > limit;
      int expected = outside || (store && (code || !(types[t] & 2))) ? 13 : -1;
      p1 = first; p2 = size; p3 = store;
      load_fs();
      int seen = try(access);
      cases++;
      if (seen == expected && (seen < 0 || last_error == 0)) continue;
      if (wrong++ < 4) {
        field("type ", types[t]); field(" flags ", flags); field(" limit ", limit); field(" offset ", first);
        field(" size ", size); field(" store ", store); tell(seen); print("\n");
      }
    }
  }
  count_wrong("data limits", cases, wrong);
}

/* Code that runs over the end of a page; boundaries tells where its instructions begin. */
__asm__(
  ".text; .balign 4096; .skip 4096 - 9\n"
  ".globl run_code, run_end\n"
  "run_code: nop; mov $0x12345678, %eax; inc %ecx; mov $0x1234, %ax; jmp 1f\n"
  "1: lea 0x12345678(%ebx,%ecx,2), %edx; nop; lret; run_end: nop");
extern u8 run_code[], run_end[];
static const u8 boundaries[] = {0, 1, 6, 7, 11, 13, 20, 21, 22};

static void far_call(void) { __asm__ volatile("lcall *%0" : : "m"(far_pointer) : "eax", "ecx", "edx", "memory"); }

static void run_with(u32 base, u32 limit, const char *name) {
  gdt[TEST / 8] = descriptor(base, limit, 0x9b, 4);
  far_pointer.selector = TEST;
  int seen = try(far_call);
  field(name, limit - far_pointer.offset);
  tell(seen);
  if (seen >= 0) field(last_cs == TEST ? " at " : " from ", last_cs == TEST ? last_ip - far_pointer.offset : 0);
  print("\n");
}
/* The first instruction that reaches beyond the limit faults, at whatever page it lies. */
static void fetch_limits(void) {
  for (int pass = 0; pass < 2; pass++) {
    far_pointer.offset = (word)run_code - IMAGE;
    for (int k = run_end - run_code; k >= -1; k--) {
      run_with(IMAGE, (word)run_code - IMAGE + k, pass ? "again +" : "fetch +");
    }
  }
  /* The same code in segments of another base. */
  far_pointer.offset = 0x23;
  for (int k = -1; k < 12; k++) run_with((word)run_code - 0x23, 0x23 + k, "base +");
  run_with((word)run_code - 0x23, 0x23 + 100, "base +");
}

/* Near branches whose target lies beyond the limit fault themselves, and change nothing. */
#define BRANCH(name, code) \
  __asm__(".text; .globl " #name "; " #name ": " code "; lret"); \
  extern u8 name[];
BRANCH(b_jmp, "jmp limit_end")
BRANCH(b_jz, "xor %eax, %eax; jz limit_end")
BRANCH(b_jnz, "xor %eax, %eax; jnz limit_end")
BRANCH(b_call, "call limit_end")
BRANCH(b_jmp_r, "mov $limit_end - 0x100000, %eax; jmp *%eax")
BRANCH(b_call_r, "mov $limit_end - 0x100000, %eax; call *%eax")
BRANCH(b_ret, "push $limit_end - 0x100000; ret")
BRANCH(b_loop, "mov $2, %ecx; 1: loop 2f; lret; .skip 100; 2: nop; nop; nop")
__asm__(".text; .skip 16; limit_end: lret; .skip 64");
extern u8 limit_end[];
static u32 seen_sp, seen_cx;
static int note_registers(struct frame *f) {
  seen_sp = (word)(&f->flags + 1);
  seen_cx = f->cx;
  return 0;
}
static void branch_limits(void) {
  static const struct { const char *name; u8 *code; u8 *limit; } all[] = {
    {"jmp", b_jmp, limit_end}, {"jz taken", b_jz, limit_end}, {"jz not taken", b_jnz, limit_end}, {"call", b_call, limit_end},
    {"jmp register", b_jmp_r, limit_end}, {"call register", b_call_r, limit_end}, {"ret", b_ret, limit_end},
    {"loop", b_loop, b_loop + 50},
  };
  on_event = note_registers;
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    far_pointer.offset = (word)all[i].code - IMAGE;
    far_pointer.selector = TEST;
    gdt[TEST / 8] = descriptor(IMAGE, (word)all[i].limit - IMAGE - 1, 0x9b, 4);
    p1 = 0;
    print(all[i].name);
    int seen = try(far_call);
    tell(seen);
    if (seen >= 0) field(" at ", last_ip - far_pointer.offset);
    if (all[i].code == b_loop) field(" ecx ", seen_cx);
    print("\n");
  }
  on_event = 0;
}

/* Far transfers to an offset beyond the limit. */
static void far_jump(void) { __asm__ volatile("ljmp *%0" : : "m"(far_pointer)); }
static void far_return(void) { __asm__ volatile("push %0; push %1; lret" : : "r"(TEST), "r"(far_pointer.offset)); }
static void interrupt_return(void) { __asm__ volatile("pushf; push %0; push %1; iret" : : "r"(TEST), "r"(far_pointer.offset)); }
static void interrupt(void) { __asm__ volatile("int $0x99"); }
static void far_limits(void) {
  static const struct { const char *name; void (*f)(void); } all[] = {
    {"far jmp", far_jump}, {"far call", far_call}, {"lret", far_return}, {"iret", interrupt_return}, {"int", interrupt},
  };
  gdt[TEST / 8] = descriptor(0, 0xfff, 0x9b, 4);
  far_pointer.offset = 0x1000;
  gate(0x99, 0x1000, TEST, 0x8e);
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    print(all[i].name);
    tell(try(all[i].f));
    field(" cs ", last_cs);
    print("\n");
  }
  gate(0x99, (word)stub_table + 0x99 * 16, CODE, 0x8e);
}

/* 16-bit code: its end at 64 KiB, and a 32-bit branch beyond it. */
static u8 low[0x11000] __attribute__((aligned(4096)));
static void small_code(void) {
  gdt[TEST / 8] = descriptor((word)low, 0xffff, 0x9b, 0);
  far_pointer.selector = TEST;
  static const struct { const char *name; u32 at; u8 bytes[8]; } all[] = {
    /* nop; o32 lret */
    {"16-bit", 0xfffd, {0x90, 0x66, 0xcb}},
    {"over the end", 0xfffe, {0x90, 0x66, 0xcb}},
    /* o32 jmp 0x10000 */
    {"32-bit jump", 0xff00, {0x66, 0xe9, 0xfa, 0x00, 0x00, 0x00}},
    /* jmp 0x10000: cut to 0, where o32 lret is */
    {"16-bit jump", 0xff80, {0xe9, 0x7d, 0x00}},
  };
  low[0] = 0x66; low[1] = 0xcb;
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    for (int b = 0; b < 8; b++) low[all[i].at + b] = all[i].bytes[b];
    far_pointer.offset = all[i].at;
    print(all[i].name);
    int seen = try(far_call);
    tell(seen);
    if (seen >= 0) field(" at ", last_ip);
    print("\n");
  }
}

/* User mode: pushes, calls and pops at the edges of its stack. */
static u8 user_stack[0x1000] __attribute__((aligned(4096)));
static void (*volatile user_function)(void);
static void to_user(void) {
  __asm__ volatile("push %0; push %1; push $2; push %2; push %3; iret"
                   : : "r"(TEST | 3), "r"(p1), "r"(UCODE), "r"(user_function));
}
#define USER(name, code) static void name(void) { __asm__ volatile(code "; int $0x80"); }
USER(u_push, "push %eax") USER(u_push16, "pushw %ax") USER(u_pop, "pop %eax") USER(u_pusha, "pusha") USER(u_popa, "popa")
USER(u_call, "call 1f; nop; 1:") USER(u_pushf, "pushf") USER(u_enter, "enter $8, $0") USER(u_leave, "mov %esp, %ebp; leave")
USER(u_lret, "lret") USER(u_iret, "iret") USER(u_lcall, "lcall $0x23, $0") USER(u_mov, "mov (%esp), %eax") USER(u_bp, "mov %esp, %ebp; mov %eax, (%ebp)")
USER(u_push_es, "push %es") USER(u_pop_es, "pop %es")
static void stack_limits(void) {
  static const struct { const char *name; void (*f)(void); } all[] = {
    {"push", u_push}, {"push16", u_push16}, {"pop", u_pop}, {"pusha", u_pusha}, {"popa", u_popa}, {"call", u_call},
    {"pushf", u_pushf}, {"enter", u_enter}, {"leave", u_leave}, {"lret", u_lret}, {"iret", u_iret}, {"lcall", u_lcall},
    {"mov", u_mov}, {"mov ebp", u_bp}, {"push es", u_push_es}, {"pop es", u_pop_es},
  };
  for (int down = 0; down < 2; down++) {
    /* Up: ends behind user_stack. Down: begins with it. */
    u32 bottom = (word)user_stack - IMAGE, top = bottom + sizeof user_stack;
    gdt[TEST / 8] = down ? descriptor(IMAGE, bottom - 1, 0xf7, 4) : descriptor(IMAGE, top - 1, 0xf3, 4);
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
      user_function = all[i].f;
      print(down ? "down " : "up ");
      print(all[i].name);
      static const int distances[] = {-8, -4, -2, 0, 2, 4, 8};
      for (int d = 0; d < 7; d++) {
        p1 = (down ? bottom : top) + distances[d];
        for (int b = 0; b < sizeof user_stack; b++) user_stack[b] = 0;
        int seen = try(to_user);
        if (seen == 0x80) print(" ok");
        else tell(seen);
        if (seen == 12 && last_ip >= (word)all[i].f + 8) print("?");
      }
      print("\n");
    }
  }
}

static void limits(void) {
  data_limits();
  fetch_limits();
  branch_limits();
  far_limits();
  small_code();
  stack_limits();
}

void main(void) {
  out8(0x21, 0xff);
  out8(0xa1, 0xff);
  gdt[1] = descriptor(0, 0xfffff, 0x9b, 0xc);
  gdt[2] = descriptor(0, 0xfffff, 0x93, 0xc);
  gdt[3] = descriptor(0, 0xfffff, 0xf3, 0xc);
  gdt[4] = descriptor(0, 0xfffff, 0xfb, 0xc);
  gdt[TSS / 8] = descriptor((word)tss, 0x2068, 0x89, 0);
  struct table t = {sizeof gdt - 1, (word)gdt};
  __asm__ volatile("lgdt %0" : : "m"(t));
  for (int i = 0; i < 256; i++) gate(i, (word)stub_table + i * 16, CODE, i >= 0x80 && i < 0x84 ? 0xee : 0x8e);
  struct table it = {2047, (word)idt};
  __asm__ volatile("lidt %0" : : "m"(it));
  *(u32 *)(tss + 4) = (word)stack_top - 8192;
  *(u32 *)(tss + 8) = DATA;
  *(u16 *)(tss + 0x66) = 0x2068;
  __asm__ volatile("ltr %w0" : : "r"(TSS));
  if (*command_line == 's') limits();
  print("end\n");
}

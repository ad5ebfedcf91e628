/* The 32-bit system guest: segment limits, virtual-8086 mode, hardware task switches. */
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

/* Virtual-8086 mode: what each instruction leaves in the monitor's frame, by IOPL. */
static u32 v86_flags;
static u8 *const v86_code = (u8 *)0x10000;
static void to_v86(void) {
  __asm__ volatile(
    "push $0x6000; push $0x5000; push $0x3000; push $0x4000; push $0x2000; push $0x100; push %0; push $0x1000; push $0;"
    "mov $0x1111, %%ecx; mov $0x2222, %%edx; mov $0x40, %%ebx; iret" : : "r"(v86_flags | 0x20002), "a"(0x12345678));
}
/* RF is left out: TCG does not set it. */
static int tell_frame(struct frame *f) {
  field(" ip ", f->cs == 0x1000 || f->flags & 0x20000 ? f->ip : 0);
  field(" cs ", f->cs);
  field(" flags ", f->flags & ~0x108d5);
  if (f->flags & 0x20000) {
    field(" sp ", f->sp);
    field(" ss ", f->ss);
    field(" es ", f->es);
    field(" ds ", f->ds);
    field(" fs ", f->fs);
    field(" gs ", f->gs);
    field(" ax ", f->ax);
    field(" top ", *(u16 *)(f->ss * 16 + (f->sp & 0xffff)));
  }
  u32 ds, fs;
  __asm__ volatile("mov %%ds, %0; mov %%fs, %1" : "=r"(ds), "=r"(fs));
  field(" now fs ", fs);
  return 0;
}
static const struct { const char *name; u8 bytes[14]; } v86_instructions[] = {
  {"int3", {0xcc}}, {"hlt", {0xf4}}, {"cli", {0xfa, 0xcc}}, {"sti", {0xfb, 0xcc}}, {"pushf", {0x9c, 0xcc}},
  {"pushfd", {0x66, 0x9c, 0xcc}}, {"popf", {0x68, 0x02, 0x72, 0x9d, 0xcc}}, {"popfd", {0x66, 0x68, 0x02, 0x72, 0x20, 0, 0x66, 0x9d, 0xcc}},
  {"int 80", {0xcd, 0x80}}, {"int 40", {0xcd, 0x40}}, {"icebp after cli", {0xfa, 0xcc}}, {"into", {0xb0, 0x7f, 0x04, 1, 0xce, 0xcc}},
  {"iret", {0x68, 0x02, 0x70, 0x0e, 0x68, 0x20, 0, 0xcf}}, {"iretd", {0x66, 0x68, 2, 0, 0, 0, 0x66, 0x0e, 0x66, 0x6a, 0x20, 0x66, 0xcf}},
  {"in", {0xe4, 0x71, 0xb0, 1, 0xcc}}, {"in refused", {0xe4, 0x72, 0xcc}}, {"mov cr0", {0x0f, 0x20, 0xc0}},
  {"mov dr0", {0x0f, 0x21, 0xc0}}, {"lmsw", {0x0f, 0x01, 0xf0}}, {"smsw", {0x0f, 0x01, 0xe0, 0xcc}}, {"sgdt", {0x0f, 0x01, 0x06, 0, 0, 0xcc}},
  {"lgdt", {0x0f, 0x01, 0x16, 0, 0}}, {"lldt", {0x0f, 0, 0xd0}}, {"sldt", {0x0f, 0, 0xc0}}, {"str", {0x0f, 0, 0xc8}}, {"lar", {0x0f, 2, 0xc0}},
  {"verr", {0x0f, 0, 0xe0}}, {"arpl", {0x63, 0xc0}}, {"clts", {0x0f, 6}}, {"invd", {0x0f, 8}}, {"wbinvd", {0x0f, 9}},
  {"rdmsr", {0x0f, 0x32}}, {"wrmsr", {0x0f, 0x30}}, {"invlpg", {0x0f, 1, 0x3e, 0, 0}}, {"ud2", {0x0f, 0x0b}}, {"div", {0x31, 0xc9, 0xf7, 0xf1}},
  {"mov ds", {0xb8, 0x34, 0x12, 0x8e, 0xd8, 0xcc}}, {"mov ss", {0xb8, 0x34, 0x12, 0x8e, 0xd0, 0xcc}}, {"mov fs", {0x8e, 0xe0, 0xcc}},
  {"lds", {0xc5, 0x06, 0, 0, 0xcc}}, {"pop es", {0x6a, 0x77, 0x07, 0xcc}}, {"push cs", {0x0e, 0xcc}},
  {"far jmp", {0xea, 0x10, 0, 0x01, 0x10}}, {"far call", {0x9a, 0x10, 0, 0x01, 0x10}}, {"retf", {0x68, 0x01, 0x10, 0x6a, 0x20, 0xcb}},
  {"load ds", {0xa1, 0, 0, 0xcc}}, {"cs store", {0x2e, 0xc6, 0x06, 0x08, 0, 0xf4, 0x90, 0x90, 0x90}}, {"rep movs", {0xf3, 0xa4, 0xcc}},
  {"sysexit", {0x0f, 0x35}}, {"enter", {0xc8, 0x10, 0, 0, 0xcc}}, {"pusha", {0x60, 0xcc}}, {"esi", {0x67, 0x66, 0x8b, 0x03, 0xcc}},
};
static void virtual_mode(void) {
  *(u16 *)(tss + 0x66) = 0x68;
  for (int i = 0; i < 0x2001; i++) tss[0x68 + i] = 0xff;
  tss[0x68 + 0x71 / 8] = 0xfd;
  on_event = tell_frame;
  for (int level = 0; level < 4; level += 3) {
    v86_flags = level << 12;
    for (unsigned i = 0; i < sizeof v86_instructions / sizeof *v86_instructions; i++) {
      for (int b = 0; b < 64; b++) v86_code[b] = 0xcc;
      for (int b = 0; b < 14; b++) if (v86_instructions[i].bytes[b]) v86_code[b] = v86_instructions[i].bytes[b];
      for (int b = 0; b < 14; b++) if (b < 13 && !v86_instructions[i].bytes[b] && v86_instructions[i].bytes[b + 1]) v86_code[b] = 0;
      if (v86_instructions[i].bytes[0] == 0x0f && !v86_instructions[i].bytes[1]) v86_code[1] = 0;
      *(u32 *)0x30000 = 0x12345678;
      *(u32 *)0x30040 = 0x9abcdef0;
      gate(3, (word)stub_table + 3 * 16, CODE, 0xee);
      gate(4, (word)stub_table + 4 * 16, CODE, 0xee);
      print(v86_instructions[i].name);
      field(" iopl ", level);
      tell(try(to_v86));
      print("\n");
    }
  }
  /* Gates that virtual-8086 mode may not go through: another privilege, conforming code; 16-bit gates. */
  v86_code[0] = 0xcd;
  v86_code[1] = 0x99;
  v86_flags = 0x3000;
  static const u8 accesses[] = {0x9b, 0x9f, 0xfb, 0xff, 0xdb, 0x93, 0x1b};
  for (unsigned i = 0; i < sizeof accesses; i++) {
    gdt[TEST / 8] = descriptor(0, 0xfffff, accesses[i], 0xc);
    gate(0x99, (word)stub_table + 0x99 * 16, TEST, 0xee);
    field("gate to ", accesses[i]);
    tell(try(to_v86));
    print("\n");
  }
  gate(0x99, (word)stub_table + 0x99 * 16, CODE, 0x8e);
  print("gate of dpl 0");
  tell(try(to_v86));
  print("\n");
  on_event = 0;
  *(u16 *)(tss + 0x66) = 0x2068;
}

/* Hardware task switches. */
enum { TASK = 0x40, TASK16 = 0x48, HANDLER = 0x50, GATE = 0x58, LDT = 0x60, HANDLERS = 0x68 };
struct tss32 {
  u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
  u32 es, cs, ss, ds, fs, gs, ldt;
  u16 trap, map;
};
struct tss16 {
  u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
static struct tss32 task, handler;
static struct tss16 small;
static u8 task_stack[4096], handler_stack[4096], kernel_stack[4096];
#define MAIN ((struct tss32 *)tss)
/* The task under test: tells where it is, returns by IRET; by a jump to the main task the second time. */
extern void task_entry(void), handler_entry(void), task_jumps(void), task_forward(void);
__asm__(
  ".text; .globl task_entry, handler_entry, task_jumps, task_forward\n"
  "task_entry: call in_task; iret; jmp task_entry\n"
  "task_jumps: call in_task; ljmp $0x28, $0; jmp task_jumps\n"
  "handler_entry: mov %ebx, task_vector; call in_handler; ljmp $0x28, $0; jmp handler_entry\n");
static u64 ldt[4];
static u32 access_of(int selector) { return gdt[selector / 8] >> 40 & 0xff; }
static void tell_task(void) {
  u32 tr, flags, cr0;
  u16 local;
  __asm__ volatile("str %0; pushf; pop %1; mov %%cr0, %2; sldt %3" : "=r"(tr), "=r"(flags), "=r"(cr0), "=m"(local));
  field(" tr ", tr);
  field(" nt ", flags >> 14 & 1);
  field(" if ", flags >> 9 & 1);
  field(" ts ", cr0 >> 3 & 1);
  field(" ldt ", local);
  field(" main ", access_of(TSS));
  field(" task ", access_of(TASK));
  field(" 16 ", access_of(TASK16));
}
volatile int task_vector;
void in_task(void) {
  print(" [");
  tell_task();
  field(" link ", task.link & 0xffff);
  field(" saved ", MAIN->eflags & 0x4200);
  print(" ]");
  __asm__ volatile("clts");
}
static int handler_tells;
/* An exception or interrupt came through a task gate; the main task goes on. */
void in_handler(void) {
  last_vector = 1000;
  MAIN->eip = (word)recover;
  MAIN->eax = 1;
  if (handler_tells) {
    print(" (");
    tell_task();
    field(" link ", handler.link & 0xffff);
    field(" esp ", (word)handler_stack + sizeof handler_stack - handler.esp);
    print(" )");
  }
  gdt[TSS / 8] &= ~(2ull << 40);
  gdt[TASK / 8] &= ~(2ull << 40);
  __asm__ volatile("clts; pushf; andl $~0x4000, (%%esp); popf" : : : "memory");
}
static void prepare(void (*entry)(void)) {
  gdt[TASK / 8] = descriptor((word)&task, 0x67, 0x89, 0);
  gdt[TASK16 / 8] = descriptor((word)&small, 0x2b, 0x81, 0);
  gdt[HANDLER / 8] = descriptor((word)&handler, 0x67, 0x89, 0);
  gdt[LDT / 8] = descriptor((word)ldt, 31, 0x82, 0);
  task = (struct tss32){.esp0 = (word)kernel_stack + 4096, .ss0 = DATA, .eip = (word)entry, .eflags = 2, .esp = (word)task_stack + 4096,
    .es = DATA, .cs = CODE, .ss = DATA, .ds = DATA, .eax = 1, .ldt = LDT, .map = 0x68};
  handler = (struct tss32){.eip = (word)handler_entry, .eflags = 2, .esp = (word)handler_stack + 4096, .es = DATA, .cs = CODE, .ss = DATA, .ds = DATA, .map = 0x68};
}
static void task_gate(int vector, int selector, int access) {
  idt[vector] = (u64)selector << 16 | (u64)access << 40;
}
/* Back to the main task, whatever became of it. */
static void main_task(void) {
  gdt[TSS / 8] = descriptor((word)tss, 0x2068, 0x89, 0);
  __asm__ volatile("ltr %w0; clts; xor %%eax, %%eax; lldt %%ax; pushf; andl $~0x4000, (%%esp); popf" : : "r"(TSS) : "eax");
}
static void call_task(void) { __asm__ volatile("lcall $0x40, $0" : : : "memory"); }
static void jump_task(void) { __asm__ volatile("ljmp $0x40, $0" : : : "memory"); }
static void call_small(void) { __asm__ volatile("lcall $0x48, $0" : : : "memory"); }
static void call_gate(void) { __asm__ volatile("lcall $0x58, $0" : : : "memory"); }
static void int_task(void) { __asm__ volatile("int $0x99" : : : "memory"); }
static void bad_selector(void) { __asm__ volatile("mov %0, %%fs" : : "r"(0x7f8)); }
static void return_nested(void) { __asm__ volatile("pushf; orl $0x4000, (%esp); popf; iret"); }
static void user_call(void) { __asm__ volatile("lcall $0x40, $0; int $0x80"); }
static void user_gate(void) { __asm__ volatile("lcall $0x58, $0; int $0x80"); }
static void user_int_task(void) { __asm__ volatile("int $0x99; int $0x80"); }
static void start_user(void) {
  __asm__ volatile("push %0; push %1; push $2; push %2; push %3; iret"
                   : : "r"(UDATA), "r"(user_stack + sizeof user_stack), "r"(UCODE), "r"(user_function));
}
static void attempt(const char *name, void (*f)(void)) {
  print(name);
  tell(try(f));
  tell_task();
  print("\n");
  main_task();
}
static void tasks(void) {
  prepare(task_entry);
  gate(0x99, 0, 0, 0);
  attempt("call", call_task);
  attempt("call again", call_task);
  prepare(task_jumps);
  attempt("jump", jump_task);
  task.ds = 0; task.es = 0; task.ds = DATA; task.es = DATA;
  attempt("jump again", jump_task);
  prepare(task_entry);
  gdt[GATE / 8] = (u64)TASK << 16 | 0xe5ull << 40;
  attempt("call gate", call_gate);
  task_gate(0x99, TASK, 0xe5);
  prepare(task_entry);
  attempt("int", int_task);
  user_function = user_call;
  prepare(task_entry);
  attempt("user call, dpl 0", start_user);
  prepare(task_entry);
  user_function = user_gate;
  attempt("user call gate", start_user);
  prepare(task_entry);
  user_function = user_int_task;
  attempt("user int", start_user);
  gdt[GATE / 8] = (u64)TASK << 16 | 0x85ull << 40;
  prepare(task_entry);
  user_function = user_gate;
  attempt("user call gate of dpl 0", start_user);
  attempt("call gate not there", (gdt[GATE / 8] = (u64)TASK << 16 | 5ull << 40, call_gate));
  gdt[GATE / 8] = (u64)(TASK | 4) << 16 | 0x85ull << 40;
  attempt("call gate to the ldt", call_gate);
  gdt[GATE / 8] = (u64)CODE << 16 | 0x85ull << 40;
  attempt("call gate to code", call_gate);
  gdt[GATE / 8] = 0x85ull << 40;
  attempt("call gate to null", call_gate);
  /* Kinds of descriptors and limits. */
  for (int access = 0x80; access < 0x90; access++) {
    prepare(task_entry);
    /* Call gates are no tasks; a 16-bit TSS may be as short as this. */
    if (access == 0x84 || access == 0x8c || access == 0x81) continue;
    gdt[TASK / 8] = descriptor((word)&task, 0x66, access, 0);
    field("access ", access);
    attempt(", short", call_task);
  }
  prepare(task_entry);
  gdt[TASK / 8] = descriptor((word)&task, 0x67, 9, 0);
  attempt("not there", call_task);
  prepare(task_entry);
  gdt[TASK16 / 8] = descriptor((word)&small, 0x2a, 0x81, 0);
  attempt("16 bits, short", call_small);
  /* IRET of a task that is not nested. */
  prepare(task_entry);
  static const u16 links[] = {0, TASK, DATA, 0x7f8, TASK | 4};
  for (unsigned i = 0; i < sizeof links / sizeof *links; i++) {
    *(u16 *)tss = links[i];
    field("link ", links[i]);
    attempt("", return_nested);
  }
  /* Exceptions through task gates, with and without an error code. */
  handler_tells = 1;
  prepare(task_entry);
  task_gate(13, HANDLER, 0x85);
  attempt("#GP by a task", bad_selector);
  gate(13, (word)stub_table + 13 * 16, CODE, 0x8e);
  task_gate(0x99, HANDLER, 0x85);
  prepare(task_entry);
  attempt("int by a task", int_task);
  task_gate(0x99, HANDLER, 5);
  attempt("int, gate not there", int_task);
  task_gate(0x99, CODE, 0x85);
  attempt("int, gate to code", int_task);
  handler_tells = 0;
  /* A 16-bit task: its code lies below 64 KiB. */
  u8 *low_code = (u8 *)0x7000;
  low_code[0] = 0xcf;
  gdt[TEST / 8] = descriptor(0, 0xffff, 0x9b, 0);
  gdt[TEST2 / 8] = descriptor(0, 0xffff, 0x93, 0);
  prepare(task_entry);
  small = (struct tss16){.ip = 0x7000, .flags = 2, .ax = 0x1234, .sp = 0x6ff0, .es = TEST2, .cs = TEST, .ss = TEST2, .ds = TEST2};
  attempt("16 bits", call_small);
  field("link ", small.link);
  field(" ip ", small.ip);
  field(" ax ", small.ax);
  print("\n");
  /* Virtual-8086 mode by a task switch. */
  prepare(task_entry);
  v86_code[0] = 0xcc;
  task.eflags = 0x20002;
  task.eip = 0; task.esp = 0x100; task.ldt = 0;
  task.cs = 0x1000; task.ss = 0x2000; task.es = 0x4000; task.ds = 0x3000; task.fs = 0x5000; task.gs = 0x6000;
  on_event = tell_frame;
  attempt("virtual task", call_task);
  on_event = 0;
  /* What is wrong with the new task's segments is the new task's fault: handlers are tasks, its stack may not be there. */
  static struct tss32 handlers[4];
  static const struct { const char *name; u32 *field; u32 good; } segments[] = {
    {"cs", &task.cs, 0x9b}, {"ss", &task.ss, 0x93}, {"ds", &task.ds, 0x93}, {"gs", &task.gs, 0x93}, {"ldt", &task.ldt, 0x82},
  };
  for (unsigned s = 0; s < sizeof segments / sizeof *segments; s++) {
    for (int rpl = 0; rpl < 4; rpl += 3) {
      for (int access = 0; access < 256; access++) {
        if (access % 16 == 0) {
          print(segments[s].name);
          field(" rpl ", rpl);
          field(" ", access);
          print(":");
        }
        prepare(task_entry);
        gdt[TEST / 8] = descriptor(0, 0xfffff, access, s == 4 ? 0 : 0xc);
        *segments[s].field = TEST | rpl;
        /* The task only returns: its user mode has no way to tell. */
        extern void task_returns(void);
        task.eip = (word)task_returns;
        last_vector = -1;
        for (int i = 0; i < 4; i++) {
          handlers[i] = handler;
          handlers[i].ebx = 10 + i;
          gdt[HANDLERS / 8 + i] = descriptor((word)&handlers[i], 0x67, 0x89, 0);
          task_gate(10 + i, HANDLERS + i * 8, 0x85);
        }
        task_vector = -1;
        for (int i = 0; i < 16; i++) handler_stack[4080 + i] = 0;
        int seen = try(call_task);
        u32 error = *(u32 *)(handler_stack + 4092);
        if (task_vector < 0) print(" ok");
        else {
          field(" #", task_vector);
          field("/", error);
          if (handlers[task_vector - 10].link != TASK) field("@", handlers[task_vector - 10].link);
        }
        main_task();
        if (access % 16 == 15) print("\n");
      }
    }
  }
  for (int vector = 10; vector < 14; vector++) gate(vector, (word)stub_table + vector * 16, CODE, 0x8e);
}
__asm__(".text; .globl task_returns; task_returns: iret; jmp task_returns");

static void limits(void) {
  data_limits();
  fetch_limits();
  branch_limits();
  far_limits();
  small_code();
  stack_limits();
  /* T in a TSS: a debug exception before the task's first instruction. */
  prepare(task_entry);
  task.trap = 1;
  print("trap");
  tell(try(call_task));
  word dr6;
  __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
  field(" dr6 ", dr6);
  field(" at ", last_ip - (word)task_entry);
  print("\n");
  main_task();
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
  else {
    virtual_mode();
    tasks();
  }
  print("end\n");
}

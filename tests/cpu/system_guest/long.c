/* The 64-bit system guest: descriptors, paging, exceptions and their error codes, SYSCALL, debug exceptions. */
#include "guest.h"

extern u64 pml4[512], pdpt[512], pd[512];
static u64 table[512] __attribute__((aligned(4096)));
static u64 directory[512] __attribute__((aligned(4096)));
static u8 page[4096] __attribute__((aligned(4096)));
static u8 user_stack[8192] __attribute__((aligned(4096)));
/* The identity map again, for user mode: entry 1 of the top table. */
#define USER 0x8000000000ul
/* A page whose entries the tests write: entry 2 of the top table. */
#define PAGE 0x10000000000ul

enum { CODE = 8, DATA = 0x10, CODE32 = 0x18, UDATA = 0x23, UCODE = 0x2b, UCODE32 = 0x33, TSS = 0x38, TEST = 0x48, LDT = 0x58 };

static volatile word p1, p2, p3;
static void (*volatile user_function)(void);

static void to_user(void) {
  word sp = (word)user_stack + sizeof user_stack + USER;
  __asm__ volatile("push %0; push %1; push $2; push %2; push %3; iretq"
                   : : "r"((word)UDATA), "r"(sp), "r"((word)UCODE), "r"((word)user_function + USER));
}
/* Runs f at CPL 3; int $0x80 ends it: the result is 128 then. */
static int try_user(void (*f)(void)) {
  user_function = f;
  return try(to_user);
}
static void user_result(int vector) {
  if (vector == 0x80) print(" ok");
  else tell(vector);
}

/* One line of results for every access byte of a descriptor. */
static void each_access(const char *name, void (*f)(void), int flags, int user) {
  print(name);
  for (int access = 0; access < 256; access++) {
    gdt[TEST / 8] = descriptor(0x1000, 0xfffff, access, flags);
    gdt[TEST / 8 + 1] = 0;
    p2 = 0;
    int vector = user ? try_user(f) : try(f);
    if (access % 16 == 0) {
      print("\n ");
      hex(access);
      print(":");
    }
    if (user) user_result(vector);
    else tell(vector);
    if (p2) field("=", p2);
    if ((gdt[TEST / 8] >> 40 & 0xff) != (u64)access) field("'", gdt[TEST / 8] >> 40 & 0xff);
  }
  print("\n");
}

#define SELECTOR "mov p1, %%eax\n"
static void load_ds(void) { __asm__ volatile("mov %0, %%ds" : : "r"((u32)p1)); }
static void load_ss(void) { __asm__ volatile("mov %0, %%ss; mov %1, %%ss" : : "r"((u32)p1), "r"(DATA)); }
static void load_fs(void) { __asm__ volatile("mov %0, %%fs" : : "r"((u32)p1)); }
/* LAR leaves bits 19-16 undefined. */
static void do_lar(void) { u32 v = 0; __asm__ volatile("lar %1, %0; jz 1f; mov $0xbad, %0; 1:" : "=r"(v) : "r"((u32)p1)); p2 = v == 0xbad ? v : v & 0xf0ff00; }
static void do_lsl(void) { u32 v = 0; __asm__ volatile("lsl %1, %0; jz 1f; mov $0xbad, %0; 1:" : "=r"(v) : "r"((u32)p1)); p2 = v; }
static void do_verr(void) { u8 z; __asm__ volatile("verr %w1; setz %0" : "=r"(z) : "r"((u32)p1)); p2 = z; }
static void do_verw(void) { u8 z; __asm__ volatile("verw %w1; setz %0" : "=r"(z) : "r"((u32)p1)); p2 = z; }
static void do_lldt(void) { __asm__ volatile("lldt %w0; xor %%eax, %%eax; lldt %%ax" : : "r"((u32)p1) : "eax"); }
static void do_ltr(void) { __asm__ volatile("ltr %w0" : : "r"((u32)p1)); }
/* Far transfers to the test selector: ends at an instruction that tells. */
static void far_return(void) {
  __asm__ volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1: int $0x81" : : "r"(p1) : "rax");
}
static void far_jump(void) {
  static struct { u32 offset; u16 selector; } __attribute__((packed)) target;
  target.selector = p1;
  __asm__ volatile("lea 1f(%%rip), %%rax; mov %%eax, %0; ljmp *%0; 1: int $0x81" : "+m"(target.offset) : "m"(target) : "rax");
}
static void far_call(void) {
  static struct { u32 offset; u16 selector; } __attribute__((packed)) target;
  target.selector = p1;
  __asm__ volatile("lea 1f(%%rip), %%rax; mov %%eax, %0; lcall *%0; 1: int $0x81" : "+m"(target.offset) : "m"(target) : "rax");
}
static void interrupt_return(void) {
  __asm__ volatile("mov %%rsp, %%rcx; push %1; push %%rcx; push $2; push %0; lea 1f(%%rip), %%rax; push %%rax; iretq; 1: int $0x81"
                   : : "r"(p1), "r"((word)DATA) : "rax", "rcx");
}
/* At CPL 3 static data is at its alias. */
#define USER_WORD(x) (*(volatile word *)((word)&(x) + USER))
static void user_load_ds(void) { __asm__ volatile("mov %0, %%ds; int $0x80" : : "r"((u32)USER_WORD(p1))); }
static void user_load_ss(void) { __asm__ volatile("mov %0, %%ss; int $0x80" : : "r"((u32)USER_WORD(p1))); }
static void user_lar(void) {
  u32 v = 0;
  __asm__ volatile("lar %1, %0; jz 1f; mov $0xbad, %0; 1:" : "=r"(v) : "r"((u32)USER_WORD(p1)));
  USER_WORD(p2) = v == 0xbad ? v : v & 0xf0ff00;
  __asm__ volatile("int $0x80");
}
static void user_verw(void) {
  u8 z;
  __asm__ volatile("verw %w1; setz %0" : "=r"(z) : "r"((u32)USER_WORD(p1)));
  USER_WORD(p2) = z;
  __asm__ volatile("int $0x80");
}
static void user_far_return(void) {
  __asm__ volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1: int $0x80" : : "r"(USER_WORD(p1)) : "rax");
}

static void load_task(void) {
  gdt[TSS / 8] = descriptor((u32)(word)tss, 0x2068, 0x89, 0);
  gdt[TSS / 8 + 1] = 0;
  __asm__ volatile("ltr %w0" : : "r"(TSS));
}

static void descriptors(void) {
  static const struct { const char *name; void (*f)(void); } kernel[] = {
    {"mov ds", load_ds}, {"mov ss", load_ss}, {"lar", do_lar}, {"lsl", do_lsl}, {"verr", do_verr},
    {"verw", do_verw}, {"lldt", do_lldt}, {"retf", far_return}, {"jmp far", far_jump}, {"call far", far_call},
    {"iret", interrupt_return},
  };
  for (unsigned i = 0; i < sizeof kernel / sizeof *kernel; i++) {
    for (int rpl = 0; rpl < 4; rpl += 3) {
      p1 = TEST | rpl;
      field("rpl ", rpl);
      print(" ");
      each_access(kernel[i].name, kernel[i].f, i >= 7 ? 0xa : 0xc, 0);
    }
  }
  p1 = TEST;
  each_access("ltr", do_ltr, 0, 0);
  load_task();
  static const struct { const char *name; void (*f)(void); } user[] = {
    {"user mov ds", user_load_ds}, {"user mov ss", user_load_ss}, {"user lar", user_lar}, {"user verw", user_verw},
    {"user retf", user_far_return},
  };
  for (unsigned i = 0; i < sizeof user / sizeof *user; i++) {
    for (int rpl = 0; rpl < 4; rpl += 3) {
      p1 = TEST | rpl;
      field("rpl ", rpl);
      print(" ");
      each_access(user[i].name, user[i].f, i == 4 ? 0xa : 0xc, 1);
    }
  }
  /* Selectors without a descriptor. */
  static const word selectors[] = {0, 1, 2, 3, 4, 7, 0x1f8, 0x200, 0x203, 0xfffc, 0x58, 0x5c};
  for (unsigned i = 0; i < sizeof selectors / sizeof *selectors; i++) {
    p1 = selectors[i];
    field("selector ", p1);
    void (*all[])(void) = {load_ds, load_ss, load_fs, do_lar, do_lldt, do_ltr, far_return, far_jump, interrupt_return};
    for (unsigned k = 0; k < sizeof all / sizeof *all; k++) {
      if (all[k] == do_ltr) gdt[TSS / 8] &= ~(2ull << 40);
      tell(try(all[k]));
    }
    print("\n");
  }
}

static void touch_read(void) { (void)*(volatile u8 *)p1; }
static void touch_write(void) { *(volatile u8 *)p1 = 0xc3; }
static void touch_run(void) { ((void (*)(void))p1)(); }
static void user_read(void) { (void)*(volatile u8 *)USER_WORD(p1); __asm__ volatile("int $0x80"); }
static void user_write(void) { *(volatile u8 *)USER_WORD(p1) = 0xc3; __asm__ volatile("int $0x80"); }
static void user_run(void) { ((void (*)(void))USER_WORD(p1))(); __asm__ volatile("int $0x80"); }
static void stac_read(void) { __asm__ volatile("stac"); touch_read(); __asm__ volatile("clac"); }

/* Every kind of access through an entry. */
static void accesses(volatile u64 *entry, u64 value) {
  void (*kernel[])(void) = {touch_read, touch_write, touch_run, stac_read};
  void (*user[])(void) = {user_read, user_write, user_run};
  for (int i = 0; i < 7; i++) {
    if (i == 3 && !(read_cr4() & 0x200000)) continue;
    *entry = value;
    write_cr3(read_cr3());
    page[0] = 0xc3;
    int vector = i < 4 ? try(kernel[i]) : try_user(user[i - 4]);
    user_result(vector);
    if (vector == 14 && last_address != p1) field("@", last_address);
    u64 changed = *entry ^ value;
    if (changed) field("+", changed);
  }
}

static void paging(void) {
  pml4[2] = (word)directory | 7;
  directory[0] = (word)pd + 4096 * 0; /* replaced below */
  static u64 middle[512] __attribute__((aligned(4096)));
  directory[0] = (word)middle | 7;
  middle[0] = (word)table | 7;
  p1 = PAGE;
  static const word cr4s[] = {0x620, 0x620 | 0x100000, 0x620 | 0x200000, 0x620 | 0x300000};
  for (int wp = 0; wp < 2; wp++) {
    write_cr0(wp ? read_cr0() | 0x10000 : read_cr0() & ~0x10000ul);
    for (unsigned c = 0; c < 4; c++) {
      write_cr4(cr4s[c]);
      for (int bits = 0; bits < 32; bits++) {
        u64 value = (word)page | (bits & 7) | (bits & 8 ? 1ull << 63 : 0) | (bits & 16 ? 1ull << 45 : 0);
        field("pte wp", wp);
        field(" cr4 ", cr4s[c]);
        field(" bits ", bits);
        accesses(&table[0], value);
        print("\n");
      }
    }
    write_cr4(0x620);
  }
  /* Restrictions in upper levels, the reserved bits of large pages, NX without NXE. */
  table[0] = (word)page | 7;
  volatile u64 *levels[] = {&middle[0], &directory[0], &pml4[2]};
  u64 whole[] = {(word)table, (word)middle, (word)directory};
  for (int level = 0; level < 3; level++) {
    for (int bits = 0; bits < 16; bits++) {
      field("level ", level);
      field(" bits ", bits);
      accesses(levels[level], whole[level] | (bits & 7) | (bits & 8 ? 1ull << 63 : 0));
      print("\n");
    }
    *levels[level] = whole[level] | 7;
  }
  static const u64 large[] = {0x83, 0x87, 0x187, 0x1087, 0x2087, 0x100087, 0x8000000000000087ull, 0x0000800000000087ull};
  p1 = PAGE + ((word)page & 0x1fffff);
  for (unsigned i = 0; i < sizeof large / sizeof *large; i++) {
    field("2M ", large[i]);
    accesses(&middle[0], ((word)page & ~0x1ffffful) | large[i]);
    print("\n");
  }
  p1 = PAGE + (word)page;
  for (unsigned i = 0; i < sizeof large / sizeof *large; i++) {
    field("1G ", large[i]);
    accesses(&directory[0], large[i]);
    print("\n");
  }
  p1 = PAGE;
  directory[0] = (word)middle | 7;
  middle[0] = (word)table | 7;
  pml4[2] = (word)directory | 0x87;
  write_cr3(read_cr3());
  print("PS in the top table");
  tell(try(touch_read));
  pml4[2] = (word)directory | 7;
  wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
  print("\nNX without NXE");
  accesses(&table[0], (word)page | 7 | 1ull << 63);
  wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
  /* What the TLB may still know, and INVLPG. */
  table[0] = (word)page | 7;
  write_cr3(read_cr3());
  touch_read();
  table[0] = 0;
  __asm__ volatile("invlpg (%0)" : : "r"(p1) : "memory");
  print("\nafter invlpg");
  tell(try(touch_read));
  /* An access over two pages, the second of which is not there: address and bytes. */
  table[0] = (word)page | 7;
  table[1] = 0;
  write_cr3(read_cr3());
  p1 = PAGE + 4095;
  page[4095] = 0x55;
  extern void wide_write(void), wide_read(void);
  print("\nsplit write");
  tell(try(wide_write));
  field("@", last_address - PAGE);
  field(" ", page[4095]);
  print("\nsplit read");
  tell(try(wide_read));
  field("@", last_address - PAGE);
  /* An instruction over two pages. */
  page[4094] = 0x66;
  page[4095] = 0x90;
  p1 = PAGE + 4094;
  print("\nrun off the page");
  tell(try(touch_run));
  field("@", last_address - PAGE);
  field(" ip ", last_ip - PAGE);
  page[4095] = 0xb8;
  print("\nsplit instruction");
  tell(try(touch_run));
  field("@", last_address - PAGE);
  field(" ip ", last_ip - PAGE);
  /* Addresses that are not canonical. */
  static const word strange[] = {0x800000000000ul, 0xffff7ffffffffffful, 0x7ffffffffffful, 0xffff800000000000ul};
  for (unsigned i = 0; i < 4; i++) {
    p1 = strange[i];
    field("\naddress ", p1);
    tell(try(touch_read));
    tell(try(touch_write));
    tell(try(touch_run));
    if (last_vector == 13) field(" in test ", last_ip < 0x1000000);
    tell(try(wide_read));
  }
  print("\n");
}
void wide_write(void) { *(volatile u64 *)p1 = 0x1122334455667788ull; }
void wide_read(void) { (void)*(volatile u64 *)p1; }

/* What the code changes does not matter: enter() keeps what its caller needs. */
#define ASM(name, code) static void name(void) { __asm__ volatile(code); }
ASM(x_ud2, "ud2") ASM(x_int3, "int3") ASM(x_div, "xor %ecx, %ecx; div %ecx") ASM(x_idiv, "mov $0x80000000, %eax; mov $-1, %edx; mov $-1, %ecx; idiv %ecx")
ASM(x_int, "int $0x45") ASM(x_int_none, "int $0x90") ASM(x_icebp, ".byte 0xf1")
ASM(x_lock, "lock; mov %eax, %eax") ASM(x_lock_nop, ".byte 0xf0, 0x90") ASM(x_lock_cmp, "lock; .byte 0x39, 0x04, 0x24")
ASM(x_long, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
ASM(x_vmcall, "vmcall") ASM(x_vmxon, "sub $8, %rsp; vmxon (%rsp)") ASM(x_vmrun, "vmrun") ASM(x_vmmcall, "vmmcall")
ASM(x_sysenter0, "xor %ecx, %ecx; mov $0x174, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; sysenter")
ASM(x_cr1, ".byte 0x0f, 0x22, 0xc8") ASM(x_cr5, ".byte 0x0f, 0x20, 0xe8") ASM(x_cr0_pg, "mov $0x80000000, %eax; mov %rax, %cr0")
ASM(x_cr0_nw, "mov %cr0, %rax; or $0x20000000, %eax; mov %rax, %cr0") ASM(x_cr0_high, "mov $1, %eax; shl $32, %rax; mov %cr0, %rcx; or %rcx, %rax; mov %rax, %cr0")
ASM(x_cr4_pae, "xor %eax, %eax; mov %rax, %cr4") ASM(x_cr4_bits, "mov $1, %eax; shl $30, %rax; mov %rax, %cr4")
ASM(x_cr3_high, "mov $1, %eax; shl $62, %rax; mov %rax, %cr3") ASM(x_cr8, "mov $16, %eax; mov %rax, %cr8")
ASM(x_msr, "mov $0x12345, %ecx; rdmsr") ASM(x_msr_w, "mov $0x12345, %ecx; wrmsr")
ASM(x_lstar, "mov $0xc0000082, %ecx; mov $0x80000000, %edx; xor %eax, %eax; wrmsr")
ASM(x_efer, "mov $0xc0000080, %ecx; mov $0xd01, %eax; mov $1, %edx; wrmsr")
ASM(x_efer_lme, "mov $0xc0000080, %ecx; mov $0x801, %eax; xor %edx, %edx; wrmsr")
ASM(x_pat, "mov $0x277, %ecx; mov $2, %eax; xor %edx, %edx; wrmsr")
ASM(x_dr4, "mov %dr4, %rax") ASM(x_dr7, "mov $1, %eax; shl $32, %rax; mov %rax, %dr7")
ASM(x_movaps, "movaps 1(%rsp), %xmm0") ASM(x_cmpxchg16b, "lock cmpxchg16b 8(%rsp)")
ASM(x_swapgs, "swapgs; swapgs") ASM(x_iret_nt, "pushf; orl $0x4000, (%rsp); popf; iretq")
ASM(x_push_cs, ".byte 0x0e") ASM(x_aaa, ".byte 0x37") ASM(x_bound, ".byte 0x62, 0x04, 0x24, 0, 0, 0") ASM(x_into, ".byte 0xce")
ASM(x_ljmp, ".byte 0xea, 0, 0, 0, 0, 8, 0") ASM(x_les, ".byte 0xc4, 0x00, 0, 0") ASM(x_salc, ".byte 0xd6")
ASM(x_invlpg, ".byte 0x0f, 0x01, 0xf8; swapgs") ASM(x_rsm, "rsm") ASM(x_xgetbv, "xor %ecx, %ecx; xgetbv")
ASM(x_ud1, ".byte 0x0f, 0xb9, 0xc0") ASM(x_ud0, ".byte 0x0f, 0xff, 0xc0") ASM(x_mov_cs, "mov %eax, %cs")
ASM(x_mwait, "mwait") ASM(x_getsec, ".byte 0x0f, 0x37") ASM(x_ret_far, "push $-1; shlq $56, (%rsp); ret")
ASM(x_jmp_far, "mov $1, %eax; shl $47, %rax; jmp *%rax") ASM(x_call_far, "mov $1, %eax; shl $47, %rax; call *%rax")
ASM(x_lgdt, "sub $16, %rsp; movq $0, (%rsp); movq $0, 8(%rsp); movl $0x8000, 6(%rsp); lgdt (%rsp)")
ASM(x_nop66, ".byte 0x66, 0x0f, 0x1f, 0x44, 0, 0") ASM(x_clac, "clac") ASM(x_stac, "stac; clac")

/* What QEMU's TCG does not refuse, so that it cannot go on behind it. */
extern const char *command_line;
static const struct { const char *name; void (*f)(void); } strict[] = {
  {"cr0 nw without cd", x_cr0_nw}, {"cr0 high", x_cr0_high}, {"cr4 without pae", x_cr4_pae},
  {"cr0 pg without pe", x_cr0_pg}, {"cr4 unknown", x_cr4_bits}, {"cr3 high", x_cr3_high}, {"lgdt not canonical", x_lgdt},
};
static const struct { const char *name; void (*f)(void); } instructions[] = {
  {"ud2", x_ud2}, {"int3", x_int3}, {"div 0", x_div}, {"idiv overflow", x_idiv}, {"int 45", x_int},
  {"int without gate", x_int_none}, {"icebp", x_icebp}, {"lock mov", x_lock}, {"lock nop", x_lock_nop}, {"lock cmp", x_lock_cmp},
  {"16 bytes", x_long}, {"vmcall", x_vmcall}, {"vmxon", x_vmxon}, {"vmrun", x_vmrun}, {"vmmcall", x_vmmcall},
  {"sysenter without cs", x_sysenter0}, {"mov cr1", x_cr1}, {"mov from cr5", x_cr5}, 
  
  {"cr8 16", x_cr8}, {"rdmsr unknown", x_msr}, {"wrmsr unknown", x_msr_w},
  {"lstar not canonical", x_lstar}, {"efer high", x_efer}, {"efer lme off", x_efer_lme}, {"pat 2", x_pat},
  {"dr4", x_dr4}, {"dr7 high", x_dr7}, {"movaps unaligned", x_movaps}, {"cmpxchg16b unaligned", x_cmpxchg16b},
  {"swapgs", x_swapgs}, {"iret with nt", x_iret_nt}, {"push cs", x_push_cs}, {"aaa", x_aaa}, {"bound", x_bound}, {"into", x_into},
  {"jmp ptr", x_ljmp}, {"les", x_les}, {"salc", x_salc}, {"swapgs by bytes", x_invlpg}, {"rsm", x_rsm}, {"xgetbv", x_xgetbv},
  {"ud1", x_ud1}, {"ud0", x_ud0}, {"mov cs", x_mov_cs}, {"getsec", x_getsec}, {"ret not canonical", x_ret_far},
  {"jmp not canonical", x_jmp_far}, {"call not canonical", x_call_far}, {"nop 66", x_nop66},
  {"clac", x_clac}, {"stac", x_stac},
};

static void user_instruction(void) {
  ((void (*)(void))USER_WORD(p1))();
  __asm__ volatile("int $0x80");
}
ASM(x_hlt, "hlt") ASM(x_cli, "cli") ASM(x_sti, "sti; cli") ASM(x_in, "in $0x71, %al") ASM(x_out, "mov $0, %al; out %al, $0x71")
ASM(x_cr0, "mov %cr0, %rax") ASM(x_clts, "clts") ASM(x_wbinvd, "wbinvd") ASM(x_invd, "invd") ASM(x_sidt, "sub $16, %rsp; sidt (%rsp); add $16, %rsp")
ASM(x_str, "str %eax") ASM(x_smsw, "smsw %eax") ASM(x_rdtsc, "rdtsc") ASM(x_popf, "pushf; orl $0x3200, (%rsp); popf; pushf; pop %rax; test $0x3200, %eax; jz 1f; ud2; 1:")
ASM(x_int80, "int $0x80") ASM(x_int85, "int $0x85") ASM(x_sysret, "sysretq") ASM(x_rdpmc, "rdpmc") ASM(x_cpuid, "xor %eax, %eax; cpuid")
ASM(x_dr, "mov %dr0, %rax") ASM(x_lmsw, "lmsw %ax") ASM(x_ltr, "ltr %ax") ASM(x_lidt, "lidt (%rsp)") ASM(x_ins, "mov $0x71, %edx; mov %rsp, %rdi; insb")
static const struct { const char *name; void (*f)(void); } privileged[] = {
  {"hlt", x_hlt}, {"cli", x_cli}, {"sti", x_sti}, {"in", x_in}, {"out", x_out}, {"mov cr0", x_cr0}, {"clts", x_clts},
  {"wbinvd", x_wbinvd}, {"invd", x_invd}, {"sidt", x_sidt}, {"str", x_str}, {"smsw", x_smsw}, {"rdtsc", x_rdtsc},
  {"popf", x_popf}, {"int 80", x_int80}, {"int 85", x_int85}, {"sysret", x_sysret}, {"cpuid", x_cpuid},
  {"mov dr0", x_dr}, {"lmsw", x_lmsw}, {"ltr", x_ltr}, {"lidt", x_lidt}, {"ins", x_ins}, {"swapgs", x_swapgs}, {"clac", x_clac},
  {"rdmsr", x_msr}, {"invlpg", x_invlpg}, {"int3", x_int3}, {"icebp", x_icebp}, {"int without gate", x_int_none},
};

static void exceptions(void) {
  word cr4 = read_cr4();
  p1 = 0;
  for (unsigned i = 0; i < sizeof instructions / sizeof *instructions; i++) {
    print(instructions[i].name);
    tell(try(instructions[i].f));
    if (last_vector >= 0) {
      field(" +", last_ip - (word)instructions[i].f);
      /* RF in the frame of a fault: TCG leaves it out. */
      if (*command_line == 's') field(" rf ", last_flags >> 16 & 1);
    }
    print("\n");
  }
  write_cr4(cr4);
  wrmsr(0x174, CODE);
  for (unsigned i = 0; i < sizeof privileged / sizeof *privileged; i++) {
    p1 = (word)privileged[i].f + USER;
    print("user ");
    print(privileged[i].name);
    user_result(try_user(user_instruction));
    if (last_vector >= 0 && last_vector != 0x80) field(" +", last_ip - p1);
    print("\n");
  }
  /* The permission map of ports. */
  *(u16 *)(tss + 0x66) = 0x68;
  for (int i = 0; i < 0x2001; i++) tss[0x68 + i] = 0xff;
  p1 = (word)x_in + USER;
  print("port refused");
  user_result(try_user(user_instruction));
  tss[0x68 + 0x71 / 8] = 0xfd;
  print("\nport allowed");
  user_result(try_user(user_instruction));
  *(u16 *)(tss + 0x66) = 0x2068;
  print("\nmap beyond the limit");
  user_result(try_user(user_instruction));
  *(u16 *)(tss + 0x66) = 0x68;
  print("\n");
}

/* Gates of every type, present or not, by INT at both privileges. */
static void user_int(void) { __asm__ volatile("int $0x99; int $0x80"); }
static void kernel_int(void) { __asm__ volatile("int $0x99"); }
static void gates(void) {
  for (int type = 0; type < 256; type++) {
    gate(0x99, (word)stub_table + 0x99 * 16, CODE, type);
    if (type % 16 == 0) {
      print("gate ");
      hex(type);
      print(":");
    }
    tell(try(kernel_int));
    user_result(try_user(user_int));
    if (type % 16 == 15) print("\n");
  }
  static const word selectors[] = {0, 3, CODE, CODE | 3, DATA, UCODE, CODE32, TSS, 0xff8, 0xffc};
  for (unsigned i = 0; i < sizeof selectors / sizeof *selectors; i++) {
    gate(0x99, (word)stub_table + 0x99 * 16, selectors[i], 0xee);
    field("gate to ", selectors[i]);
    tell(try(kernel_int));
    user_result(try_user(user_int));
    print("\n");
  }
  gate(0x99, 0x1234, CODE, 0x8e);
  idt[0x99 * 2 + 1] = 0x8000;
  print("gate not canonical");
  tell(try(kernel_int));
  /* Faults in the delivery: contributory ones make a double fault. */
  gate(0x99, (word)stub_table + 0x99 * 16, CODE, 0xee);
  gate(13, (word)stub_table + 13 * 16, CODE, 0x0e);
  print("\n#NP in #GP");
  tell(try(x_cr1));
  tell(try(x_msr));
  gate(13, (word)stub_table + 13 * 16, CODE, 0x8e);
  gate(6, (word)stub_table + 6 * 16, CODE, 0x0e);
  print("\n#NP in #UD");
  tell(try(x_ud2));
  gate(6, (word)stub_table + 6 * 16, CODE, 0x8e);
  gate(14, (word)stub_table + 14 * 16, CODE, 0x0e);
  p1 = 0x7fffff000000;
  print("\n#NP in #PF");
  tell(try(touch_read));
  gate(14, (word)stub_table + 14 * 16, CODE, 0x8e);
  /* A stack that is not there, from user mode: #PF, then #DF on its own stack. */
  gate(8, (word)stub_table + 8 * 16, CODE, 0x8e);
  idt[8 * 2] |= 1ull << 32;
  word saved = *(word *)(tss + 4);
  *(word *)(tss + 4) = 0x7fffff000000;
  print("\nuser int, no stack");
  user_result(try_user(user_int));
  *(word *)(tss + 4) = 0x800000000000;
  print("\nuser int, stack not canonical");
  user_result(try_user(user_int));
  *(word *)(tss + 4) = saved;
  print("\n");
}

/* Single steps and breakpoints: where each trap comes. */
static volatile int steps;
static volatile word trace[32], causes[32];
static int count_steps(struct frame *f) {
  if (f->vector != 1) return 0;
  word dr6;
  __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
  if (steps < 32) {
    trace[steps] = f->ip - test_start;
    causes[steps++] = dr6 | (f->flags & 0x10000) << 16;
  }
  __asm__ volatile("mov %0, %%dr6" : : "r"(0xffff0ff0ul));
  /* Go on behind an instruction breakpoint. */
  if (!(dr6 & 0x4000)) f->flags |= 0x10000;
  return 1;
}
#define STEPPED(name, code) \
  ASM(name, "pushf; orl $0x100, (%rsp); popf;" code "; pushf; andl $~0x100, (%rsp); popf; nop")
STEPPED(s_nop, "nop; nop") STEPPED(s_mov_ss, "mov %ss, %eax; mov %eax, %ss; nop; nop") STEPPED(s_rep, "mov $3, %ecx; mov %rsp, %rdi; mov %rsp, %rsi; rep movsb")
STEPPED(s_int, "int $0x80") STEPPED(s_ud, "nop; ud2") STEPPED(s_cpuid, "xor %eax, %eax; cpuid; nop") STEPPED(s_push, "push %rax; pop %rax")
STEPPED(s_popf, "pushf; popf; nop") STEPPED(s_iret, "mov %rsp, %rcx; push $0x10; push %rcx; pushf; push $8; lea 1f(%rip), %rax; push %rax; iretq; 1: nop")
STEPPED(s_out, "mov $0, %al; out %al, $0x80; nop") STEPPED(s_jmp, "jmp 1f; 1: call 2f; 2: pop %rax") STEPPED(s_sti, "sti; nop; cli") STEPPED(s_far, "push $8; lea 1f(%rip), %rax; push %rax; lretq; 1: nop")
static int go_on(struct frame *f) {
  if (f->vector == 0x80) return 1;
  return count_steps(f);
}
static void tell_steps(const char *name) {
  print(name);
  for (int i = 0; i < steps; i++) {
    field(" ", trace[i]);
    field(":", causes[i]);
  }
  print("\n");
}
/* LEN of breakpoint 0 as a mask: breakpoints are aligned to their length. */
static word length_mask(u32 control) { return (control >> 18 & 3) == 2 ? 7 : control >> 18 & 3; }
static void port_breakpoints(int repeated);
static void stepping(void) {
  static const struct { const char *name; void (*f)(void); } all[] = {
    {"step nop", s_nop}, {"step mov ss", s_mov_ss}, {"step rep", s_rep}, {"step int", s_int}, {"step ud", s_ud},
    {"step cpuid", s_cpuid}, {"step push", s_push}, {"step popf", s_popf}, {"step iret", s_iret}, {"step out", s_out},
    {"step jmp", s_jmp}, {"step sti", s_sti}, {"step far", s_far},
  };
  on_event = go_on;
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    steps = 0;
    test_start = (word)all[i].f;
    int vector = try(all[i].f);
    tell_steps(all[i].name);
    if (vector >= 0 && vector != 1 && vector != 0x80) tell(vector);
  }
  /* Instruction and data breakpoints. */
  extern char b_code[], b_one[], b_two[];
  test_start = (word)b_code;
  static volatile u64 watched[4];
  void run(void);
  static const u32 controls[] = {0x401, 0x402, 0x10401, 0x30401, 0xd0401, 0xf0401, 0x90401, 0xb0401, 0x70401, 0x50401};
  for (unsigned i = 0; i < sizeof controls / sizeof *controls; i++) {
    for (int where = 0; where < 3; where++) {
      word address = controls[i] >> 16 ? ((word)watched + where * 3) & ~length_mask(controls[i]) : (word)(where == 0 ? b_one : where == 1 ? b_two : b_two + 1);
      __asm__ volatile("mov %0, %%dr0; mov %1, %%dr6" : : "r"(address), "r"(0xffff0ff0ul));
      steps = 0;
      __asm__ volatile("mov %0, %%dr7" : : "r"((word)controls[i]));
      __asm__ volatile(".globl b_code, b_one, b_two; b_code: movq $1, (%0); movb $1, 8(%0); b_one: nop; b_two: movl 4(%0), %%eax; movw %%ax, 2(%0); nop"
                       : : "r"(watched) : "eax", "memory");
      __asm__ volatile("mov %0, %%dr7" : : "r"(0x400ul));
      field("dr7 ", controls[i]);
      field(" at ", where);
      tell_steps("");
    }
  }
  on_event = 0;
  port_breakpoints(0);
}

/* I/O breakpoints, which there are under CR4.DE only. */
static void port_breakpoints(int repeated) {
  extern char b_ports[], b_repeated[];
  static u64 bytes;
  test_start = (word)(repeated ? b_repeated : b_ports);
  on_event = go_on;
  static const u32 port_controls[] = {0x20401, 0x60402, 0xe0401, 0xa0401, 0x20400};
  for (int extensions = !repeated; extensions < 2; extensions++) {
    if (extensions) write_cr4(read_cr4() | 8);
    for (unsigned i = 0; i < sizeof port_controls / sizeof *port_controls; i++) {
      for (word port = 0x7c; port < 0x88; port++) {
        if (port & length_mask(port_controls[i])) continue;
        __asm__ volatile("mov %0, %%dr0; mov %1, %%dr6" : : "r"(port), "r"(0xffff0ff0ul));
        steps = 0;
        __asm__ volatile("mov %0, %%dr7" : : "r"((word)port_controls[i]));
        if (repeated) {
          __asm__ volatile(".globl b_repeated; mov $0x80, %%edx; mov $2, %%ecx; b_repeated: rep outsb; nop" : : "S"(&bytes) : "edx", "ecx", "memory");
        } else {
          __asm__ volatile(".globl b_ports; b_ports: out %%al, $0x80; nop; in $0x80, %%al; out %%ax, $0x80; mov $0x83, %%edx; in %%dx, %%al; nop"
                           : : : "eax", "edx", "memory");
        }
        __asm__ volatile("mov %0, %%dr7" : : "r"(0x400ul));
        field("de ", extensions);
        field(" dr7 ", port_controls[i]);
        field(" port ", port);
        tell_steps("");
      }
    }
  }
  write_cr4(read_cr4() & ~8ul);
  on_event = 0;
}

/* SYSCALL and SYSRET, SYSENTER and SYSEXIT: what they leave. */
extern char syscall_entry[];
__asm__(".globl syscall_entry; syscall_entry: int $0x82");
static void user_syscall(void) { __asm__ volatile("mov $0x1234, %%ecx; stc; syscall" : : : "rcx", "r11"); }
static void user_sysenter(void) { __asm__ volatile("stc; sysenter"); }
static void sysret64(void) {
  __asm__ volatile("mov %0, %%rcx; mov $0x3ed7, %%r11; sysretq" : : "r"((word)user_instruction + USER) : "rcx", "r11");
}
static void sysret32(void) { __asm__ volatile("lea 1f(%%rip), %%rcx; add %0, %%rcx; mov $2, %%r11; sysretl; 1: int $0x80" : : "r"(0ul) : "rcx", "r11"); }
static void sysret_bad(void) { __asm__ volatile("mov $1, %%ecx; shl $47, %%rcx; mov $2, %%r11; sysretq" : : : "rcx", "r11"); }
static int tell_frame(struct frame *f) {
  field(" cs ", f->cs);
  field(" ss ", f->ss);
  field(" flags ", f->flags & ~0x10040);
  field(" r11 ", f->r11 & 0xfffff & ~0x40);
  u32 ss;
  __asm__ volatile("mov %%ss, %0" : "=r"(ss));
  field(" now ", ss);
  return 0;
}
static void calls(void) {
  wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
  wrmsr(0xc0000081, ((u64)(UDATA - 8) << 48) | ((u64)CODE << 32));
  wrmsr(0xc0000082, (word)syscall_entry);
  wrmsr(0xc0000084, 0x47700);
  on_event = tell_frame;
  print("syscall");
  user_result(try_user(user_syscall));
  print("\nsysret 64");
  p1 = (word)x_int80 + USER;
  user_result(try(sysret64));
  print("\nsysret not canonical");
  user_result(try(sysret_bad));
  wrmsr(0x174, CODE);
  wrmsr(0x175, (word)stack_top - 8192);
  wrmsr(0x176, (word)syscall_entry);
  print("\nsysenter");
  user_result(try_user(user_sysenter));
  wrmsr(0x174, 0);
  print("\nsysenter, no cs");
  user_result(try_user(user_sysenter));
  wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
  print("\nsyscall without sce");
  user_result(try_user(user_syscall));
  on_event = 0;
  print("\n");
}

/* Process-context identifiers: what is refused, and that no translation outlives its invalidation. */
static u64 other_page[512] __attribute__((aligned(4096)));
static volatile struct { u64 context, address; } target;
static volatile u64 invpcid_type;
static void invpcid(void) { __asm__ volatile("invpcid %1, %0" : : "r"(invpcid_type), "m"(target) : "memory"); }
static void user_invpcid(void) {
  __asm__ volatile("invpcid (%%rsp), %0; int $0x80" : : "r"(2ul) : "memory");
}
static void set_cr3(void) { write_cr3(p1); }
static void set_cr4(void) { write_cr4(p1); }
#define NO_FLUSH (1ull << 63)
static void pcid_result(const char *name, int vector) {
  print(name);
  tell(vector);
  print("\n");
}
static void use_invpcid(u64 type, u64 context, u64 address) {
  invpcid_type = type;
  target.context = context;
  target.address = address;
  invpcid();
}
static void refused(const char *name, u64 type, u64 context, u64 address) {
  invpcid_type = type;
  target.context = context;
  target.address = address;
  pcid_result(name, try(invpcid));
}
/* What the page at PAGE holds, and then another page is mapped there. */
static void remap(int which, u64 bits) {
  (void)*(volatile u64 *)PAGE;
  table[0] = (which ? (word)other_page : (word)page) | 7 | bits;
}
static void seen(const char *name) {
  print(name);
  field(" ", *(volatile u64 *)PAGE);
  print("\n");
}
static void contexts(void) {
  static u64 middle[512] __attribute__((aligned(4096)));
  pml4[2] = (word)directory | 7;
  directory[0] = (word)middle | 7;
  middle[0] = (word)table | 7;
  *(u64 *)page = 0xa;
  other_page[0] = 0xb;
  table[0] = (word)page | 7;
  word top = read_cr3(), cr4 = read_cr4();
  p1 = top | NO_FLUSH;
  pcid_result("no flush without pcide", try(set_cr3));
  refused("invpcid 0 without pcide", 0, 1, 0);
  refused("invpcid 1 without pcide", 1, 1, 0);
  refused("invpcid 0 of 0 without pcide", 0, 0, PAGE);
  refused("invpcid 2 without pcide", 2, 1, 0);
  refused("invpcid 3 without pcide", 3, 0xfff, 0);
  write_cr3(top | 8);
  p1 = cr4 | 0x20000;
  pcid_result("pcide while the pcid is 8", try(set_cr4));
  write_cr3(top);
  pcid_result("pcide", try(set_cr4));
  field("cr4.pcide ", read_cr4() >> 17 & 1);
  print("\n");
  p1 = top | 5 | NO_FLUSH;
  pcid_result("no flush", try(set_cr3));
  field("cr3 ", read_cr3() - top);
  print("\n");
  p1 = top | 5 | 1ull << 62;
  pcid_result("cr3 bit 62", try(set_cr3));
  refused("invpcid 4", 4, 0, 0);
  refused("invpcid -1", -1, 0, 0);
  refused("invpcid reserved", 2, 0x1000, 0);
  refused("invpcid not canonical", 0, 5, 0x800000000000);
  refused("invpcid 1 not canonical", 1, 5, 0x800000000000);
  pcid_result("user invpcid", try_user(user_invpcid));
  remap(1, 0);
  use_invpcid(0, 5, PAGE + 123);
  seen("address");
  remap(0, 0);
  use_invpcid(1, 5, 0);
  seen("context");
  remap(1, 0);
  use_invpcid(3, 0, 0);
  seen("all but global");
  remap(0, 0x100);
  use_invpcid(2, 0, 0);
  seen("all");
  write_cr4(read_cr4() | 0x80);
  remap(1, 0x100);
  write_cr4(read_cr4() & ~0x80ul);
  seen("pge");
  remap(0, 0);
  write_cr3(top | 6);
  write_cr3(top | 5);
  seen("flushed");
  /* What another context knew of the page is gone as well when it says so. */
  remap(1, 0);
  write_cr3(top | 6 | NO_FLUSH);
  (void)*(volatile u64 *)PAGE;
  use_invpcid(1, 5, 0);
  use_invpcid(1, 6, 0);
  write_cr3(top | 5 | NO_FLUSH);
  seen("from another context");
  remap(0, 0);
  write_cr3(top | 6 | NO_FLUSH);
  use_invpcid(0, 5, PAGE);
  write_cr3(top | 5 | NO_FLUSH);
  seen("address from another context");
  remap(1, 0);
  __asm__ volatile("invlpg (%0)" : : "r"(PAGE) : "memory");
  seen("invlpg");
  /* Global translations are of every context: INVLPG ends them in all. */
  write_cr4(read_cr4() | 0x80);
  remap(0, 0x100);
  __asm__ volatile("invlpg (%0)" : : "r"(PAGE) : "memory");
  (void)*(volatile u64 *)PAGE;
  write_cr3(top | 6 | NO_FLUSH);
  remap(1, 0x100);
  __asm__ volatile("invlpg (%0)" : : "r"(PAGE) : "memory");
  write_cr3(top | 5 | NO_FLUSH);
  seen("global");
  write_cr3(top);
  p1 = cr4;
  pcid_result("pcide off", try(set_cr4));
}

/* Addresses that are not canonical: #SS through SS, #GP otherwise. At CPL 3, so that frames have a stack. */
#define STRANGE(name, code) static void name(void) { __asm__ volatile("mov $1, %edx; shl $47, %rdx; add $64, %rdx; mov %rsp, %rax;" code "; int $0x80"); }
#define BAD_SP "mov %rdx, %rsp;"
#define BAD_BP "mov %rdx, %rbp;"
/* A loop long enough to be compiled, whose last round has the address. */
#define LAST(moves, code) "mov %rsp, %rbp; mov $300000, %ecx; 1: cmp $1, %ecx;" moves code "; dec %ecx; jnz 1b"
STRANGE(c_push, BAD_SP "push %rax") STRANGE(c_push16, BAD_SP "pushw %ax") STRANGE(c_pop, BAD_SP "pop %rax") STRANGE(c_call, BAD_SP "call 1f; nop; 1:")
STRANGE(c_ret, BAD_SP "ret") STRANGE(c_pushf, BAD_SP "pushf") STRANGE(c_popf, BAD_SP "popf") STRANGE(c_enter, BAD_SP "enter $8, $0")
STRANGE(c_leave, BAD_BP "leave") STRANGE(c_iret, BAD_SP "iretq") STRANGE(c_lret, BAD_SP "lretq") STRANGE(c_lcall, "push $0x2b; push %rax;" "mov %rsp, %rax;" BAD_SP "rex.W lcall *(%rax)")
STRANGE(c_sp, BAD_SP "mov (%rsp), %eax") STRANGE(c_bp, BAD_BP "mov %eax, 8(%rbp)") STRANGE(c_index, BAD_BP "mov (%rax,%rbp), %eax")
STRANGE(c_dx, "mov (%rdx), %eax") STRANGE(c_ds, BAD_BP "mov %ds:(%rbp), %eax") STRANGE(c_fs, BAD_BP "mov %fs:(%rbp), %eax")
STRANGE(c_ss, "mov %ss:(%rdx), %eax") STRANGE(c_movups, BAD_BP "movups (%rbp), %xmm0") STRANGE(c_movups_to, BAD_BP "movups %xmm0, (%rbp)")
STRANGE(c_lock, BAD_BP "lock incl (%rbp)") STRANGE(c_16b, BAD_BP "lock cmpxchg16b (%rbp)") STRANGE(c_fxsave, BAD_BP "fxsave (%rbp)")
STRANGE(c_fild, BAD_BP "fildl (%rbp)") STRANGE(c_push_m, "push (%rdx)") STRANGE(c_push_sp, BAD_SP "push (%rax)") STRANGE(c_pop_m, "pop (%rdx)")
STRANGE(c_pop_sp, BAD_SP "pop (%rax)") STRANGE(c_movs, "mov %rdx, %rsi; mov %rax, %rdi; movsb") STRANGE(c_jmp, BAD_BP "jmp *(%rbp)") STRANGE(c_hot_bp, LAST("cmove %rdx, %rbp;", "mov (%rbp), %eax")) STRANGE(c_hot_to, LAST("cmove %rdx, %rbp;", "mov %al, -8(%rbp)"))
STRANGE(c_hot_dx, LAST("mov %rbp, %rsi; cmove %rdx, %rsi;", "mov (%rsi), %eax")) STRANGE(c_hot_sp, LAST("cmove %rdx, %rsp;", "push %rax; pop %rax")) STRANGE(c_hot_x, LAST("cmove %rdx, %rbp;", "movups (%rbp), %xmm0"))
static void not_canonical(void) {
  static const struct { const char *name; void (*f)(void); } all[] = {
    {"push", c_push}, {"push16", c_push16}, {"pop", c_pop}, {"call", c_call}, {"ret", c_ret}, {"pushf", c_pushf},
    {"popf", c_popf}, {"enter", c_enter}, {"leave", c_leave}, {"iret", c_iret}, {"lret", c_lret}, {"lcall", c_lcall},
    {"(rsp)", c_sp}, {"(rbp)", c_bp}, {"ds:(rbp)", c_ds}, {"movups from (rbp)", c_movups},
    {"movups to (rbp)", c_movups_to}, {"lock (rbp)", c_lock}, {"cmpxchg16b (rbp)", c_16b}, {"fxsave (rbp)", c_fxsave},
    {"fild (rbp)", c_fild}, {"push m, rsp", c_push_sp}, {"pop m, rsp", c_pop_sp}, {"jmp (rbp)", c_jmp},
    {"hot (rbp)", c_hot_bp}, {"hot to (rbp)", c_hot_to}, {"hot rsp", c_hot_sp}, {"hot movups", c_hot_x},
    {0},
    {"(rdx)", c_dx}, {"(rax,rbp)", c_index}, {"fs:(rbp)", c_fs}, {"ss:(rdx)", c_ss}, {"push (rdx)", c_push_m},
    {"pop (rdx)", c_pop_m}, {"movs", c_movs}, {"hot (rsi)", c_hot_dx},
  };
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    if (!all[i].name) {
      print("stack end\n");
      continue;
    }
    print(all[i].name);
    user_result(try_user((void (*)(void))all[i].f));
    print("\n");
  }
}

static void alone(void) {
  for (unsigned i = 0; i < sizeof strict / sizeof *strict; i++) {
    print(strict[i].name);
    tell(try(strict[i].f));
    print("\n");
  }
  contexts();
  not_canonical();
  port_breakpoints(1);
  exceptions();
}

void main(void) {
  /* No interrupts from the platform's 8259s. */
  out8(0x21, 0xff);
  out8(0xa1, 0xff);
  gdt[1] = descriptor(0, 0xfffff, 0x9b, 0xa);
  gdt[2] = descriptor(0, 0xfffff, 0x93, 0xc);
  gdt[3] = descriptor(0, 0xfffff, 0x9b, 0xc);
  gdt[4] = descriptor(0, 0xfffff, 0xf3, 0xc);
  gdt[5] = descriptor(0, 0xfffff, 0xfb, 0xa);
  gdt[6] = descriptor(0, 0xfffff, 0xfb, 0xc);
  struct table t = {sizeof gdt - 1, (word)gdt};
  __asm__ volatile("lgdt %0" : : "m"(t));
  for (int i = 0; i < 256; i++) gate(i, (word)stub_table + i * 16, CODE, i >= 0x80 && i < 0x84 ? 0xee : 0x8e);
  idt[0x90 * 2] = 0;
  gate(3, (word)stub_table + 3 * 16, CODE, 0xee);
  struct table it = {sizeof idt - 1, (word)idt};
  __asm__ volatile("lidt %0" : : "m"(it));
  *(word *)(tss + 4) = (word)stack_top - 8192;
  *(word *)(tss + 0x24) = (word)stack_top - 4096;
  *(u16 *)(tss + 0x66) = 0x2068;
  load_task();
  static u64 user_directory[512] __attribute__((aligned(4096)));
  static u64 user_pages[512] __attribute__((aligned(4096)));
  pml4[1] = (word)user_directory | 7;
  user_directory[0] = (word)user_pages | 7;
  for (int i = 0; i < 512; i++) user_pages[i] = (word)i << 21 | 0x87;
  write_cr3(read_cr3());
  if (*command_line == 's') return alone();
  print("descriptors\n");
  descriptors();
  load_task();
  print("paging\n");
  paging();
  print("exceptions\n");
  exceptions();
  print("gates\n");
  gates();
  print("stepping\n");
  stepping();
  print("calls\n");
  calls();
  print("end\n");
}

/* What both system guests share: printing, descriptor tables, running something that may fault. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word;

#ifdef __x86_64__
struct frame {
  word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
  word vector, error, ip, cs, flags, sp, ss;
};
#else
struct frame {
  word di, si, bp, unused, bx, dx, cx, ax;
  word vector, error, ip, cs, flags, sp, ss, es, ds, fs, gs;
};
#endif

extern char stub_table[], recover[], stack_top[];
int enter(void (*f)(void));

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static void put(char c) { out8(0x3f8, c); }
static void print(const char *s) { while (*s) put(*s++); }
static void hex(u64 value) {
  int started = 0;
  for (int shift = 60; shift >= 0; shift -= 4) {
    int digit = (value >> shift) & 15;
    if (digit || started || shift == 0) {
      put("0123456789abcdef"[digit]);
      started = 1;
    }
  }
}
static void field(const char *name, u64 value) {
  print(name);
  hex(value);
}

/* The last exception. */
static volatile int last_vector;
static volatile word last_error, last_ip, last_flags, last_cs, last_address;
/* Where the thing under test begins: addresses are told relative to it. */
static volatile word test_start;
static word read_cr2(void) {
  word value;
  __asm__ volatile("mov %%cr2, %0" : "=r"(value));
  return value;
}

/* What an exception or interrupt does beside ending the test; 1: go on where it came from. */
static int (*volatile on_event)(struct frame *f);

void handle(struct frame *f) {
  last_vector = f->vector;
  last_error = f->error;
  last_ip = f->ip;
  last_flags = f->flags;
  last_cs = f->cs;
  last_address = f->vector == 14 ? read_cr2() : 0;
  if (on_event && on_event(f)) return;
  f->ip = (word)recover;
  f->ax = 1;
  f->flags = 2;
#ifdef __x86_64__
  f->cs = 8;
  f->ss = 0x10;
  f->sp = (word)stack_top - 12288;
#else
  /* IRET at the same privilege leaves SS:ESP of a frame of user mode where they are. */
  f->cs = 8;
#endif
}

/* Runs f; -1 when it returned, else the vector. */
static int try(void (*f)(void)) {
  last_vector = -1;
  last_error = 0;
  return enter(f) ? last_vector : -1;
}
/* The result of try as one token. */
static void tell(int vector) {
  if (vector < 0) {
    print(" ok");
    return;
  }
  field(" #", vector);
  if (vector == 8 || (vector >= 10 && vector <= 14) || vector == 17) field("/", last_error);
}

static inline void write_cr0(word v) { __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static inline word read_cr0(void) { word v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline void write_cr3(word v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline word read_cr3(void) { word v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline void write_cr4(word v) { __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static inline word read_cr4(void) { word v; __asm__ volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void wrmsr(u32 n, u64 v) {
  __asm__ volatile("wrmsr" : : "c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline u64 rdmsr(u32 n) {
  u32 a, d;
  __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
  return a | ((u64)d << 32);
}

static u64 gdt[64] __attribute__((aligned(4096)));
static u64 idt[512] __attribute__((aligned(4096)));
static u8 tss[0x2100] __attribute__((aligned(4096)));
struct table { u16 limit; word base; } __attribute__((packed));

static u64 descriptor(u32 base, u32 limit, u32 access, u32 flags) {
  return (limit & 0xffff) | ((u64)(base & 0xffffff) << 16) | ((u64)access << 40) | ((u64)(limit >> 16 & 15) << 48) |
         ((u64)flags << 52) | ((u64)(base >> 24) << 56);
}
static void gate(int vector, word address, u16 selector, u8 type) {
  u64 low = (address & 0xffff) | ((u64)selector << 16) | ((u64)type << 40) | ((u64)((u32)address >> 16) << 48);
#ifdef __x86_64__
  idt[vector * 2] = low;
  idt[vector * 2 + 1] = address >> 32;
#else
  idt[vector] = low;
#endif
}

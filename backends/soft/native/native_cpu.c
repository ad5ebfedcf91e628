/* Runs single instructions on the host's CPU: for each record on standard input it loads a whole register state, jumps
 * to the instruction, and writes the state after it, or the exception it raised.
 *
 * Everything lies at fixed addresses below 2 GiB, so that stubs need no register: the arena (shared with the software
 * CPU's view of memory: code and a window of data), and behind it the states. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#define ARENA 0x20000000ul
#define ARENA_BYTES 0x10000
#define CODE (ARENA + 0x800)
#define WINDOW (ARENA + 0x4000)
#define WINDOW_BYTES 640
#define STATES 0x30000000ul
/* Processor time for the records between two flushes, in seconds; they need milliseconds. */
#define SECONDS 20
/* How often a record is run again when an exception may be the kernel's (see main). */
#define ATTEMPTS 8

struct record {
  uint8_t code[16];
  uint32_t length, reserved;
  uint64_t flags;
  uint64_t gpr[16];
  uint8_t fx[512];
  uint8_t window[WINDOW_BYTES];
};
struct result {
  uint32_t trap, error;
  uint64_t address, rip, flags;
  uint64_t gpr[16];
  uint8_t fx[512];
  uint8_t window[WINDOW_BYTES];
};

/* Offsets at STATES: fx in 0, gpr in 0x200, flags in 0x280, target 0x288, exit 0x290, host rsp 0x298, fx out 0x400,
 * gpr out 0x600, flags out 0x680. */
extern char enter_guest[], leave_guest[], leave_signal[];
__asm__(
    ".text\n.globl enter_guest\nenter_guest:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, 0x30000298\n"
    "fxrstor64 0x30000000\n"
    "pushq 0x30000280\n popfq\n"
    "mov 0x30000200, %rax\n mov 0x30000208, %rcx\n mov 0x30000210, %rdx\n mov 0x30000218, %rbx\n"
    "mov 0x30000228, %rbp\n mov 0x30000230, %rsi\n mov 0x30000238, %rdi\n"
    "mov 0x30000240, %r8\n mov 0x30000248, %r9\n mov 0x30000250, %r10\n mov 0x30000258, %r11\n"
    "mov 0x30000260, %r12\n mov 0x30000268, %r13\n mov 0x30000270, %r14\n mov 0x30000278, %r15\n"
    "mov 0x30000220, %rsp\n"
    "jmp *0x30000288\n"
    ".globl leave_guest\nleave_guest:\n"
    "mov %rax, 0x30000600\n mov %rcx, 0x30000608\n mov %rdx, 0x30000610\n mov %rbx, 0x30000618\n"
    "mov %rsp, 0x30000620\n mov %rbp, 0x30000628\n mov %rsi, 0x30000630\n mov %rdi, 0x30000638\n"
    "mov %r8, 0x30000640\n mov %r9, 0x30000648\n mov %r10, 0x30000650\n mov %r11, 0x30000658\n"
    "mov %r12, 0x30000660\n mov %r13, 0x30000668\n mov %r14, 0x30000670\n mov %r15, 0x30000678\n"
    "mov 0x30000298, %rsp\n"
    ".globl leave_signal\nleave_signal:\n"
    "pushfq\n popq 0x30000680\n"
    "fxsave64 0x30000400\n"
    "cld\n fninit\n ldmxcsr 0x300002a0\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static struct record in;
static struct result out;

/* Registers 0 to 15 as REG_* numbers. */
static const int gregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void give_up(const char *why, int number) {
  dprintf(2, "native_cpu: %s (signal %d, vector %u, error %#x, RIP %#lx, CR2 %#lx) at the instruction", why, number,
          out.trap, out.error, out.rip, out.address);
  for (unsigned i = 0; i < in.length && i < sizeof in.code; i++) dprintf(2, " %02x", in.code[i]);
  dprintf(2, "; flags %#lx", in.flags);
  for (int i = 0; i < 16; i++) dprintf(2, " r%d=%#lx", i, in.gpr[i]);
  dprintf(2, "\n");
  _exit(3);
}

static int in_arena(uint64_t rip) { return rip >= ARENA && rip < ARENA + ARENA_BYTES; }

/* Registers are taken from the frame, and the return is to the host's stack: RSP may be anything, and where the kernel
 * runs under PVM, whose hypervisor emulates IRET, a return to an RSP that is not canonical ends in #GP. */
static void on_signal(int signal, siginfo_t *info, void *context) {
  (void)info;
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  out.trap = r[REG_TRAPNO];
  out.error = r[REG_ERR];
  out.address = r[REG_CR2];
  out.rip = r[REG_RIP];
  if (signal == SIGPROF) give_up("no end", signal);
  /* Where the guest's RSP is loaded around the instruction, only the return from an interrupt can fault. */
  int leaving = out.rip >= (uint64_t)enter_guest && out.rip < (uint64_t)leave_signal && out.trap == 13;
  if (!in_arena(out.rip) && !leaving) give_up("an exception outside the instruction", signal);
  for (int i = 0; i < 16; i++) ((uint64_t *)(STATES + 0x600))[i] = r[gregs[i]];
  r[REG_RSP] = *(greg_t *)(STATES + 0x298);
  r[REG_RIP] = (greg_t)leave_signal;
}

static void limit(int seconds) {
  struct itimerval timer = {.it_value = {.tv_sec = seconds}};
  setitimer(ITIMER_PROF, &timer, NULL);
}

static void run(uint8_t *states) {
  memset(&out, 0, sizeof out);
  out.trap = ~0u;
  memcpy(states, in.fx, 512);
  memcpy(states + 0x200, in.gpr, 128);
  *(uint64_t *)(states + 0x280) = in.flags;
  memcpy((void *)WINDOW, in.window, WINDOW_BYTES);
  memset((void *)(CODE - 32), 0xcc, 128);
  memcpy((void *)CODE, in.code, in.length);
  uint8_t *after = (uint8_t *)CODE + in.length;
  after[0] = 0xff, after[1] = 0x24, after[2] = 0x25;
  *(uint32_t *)(after + 3) = STATES + 0x290;
  memset(states + 0x400, 0, 0x200);
  ((void (*)(void))enter_guest)();
  memcpy(out.fx, states + 0x400, 512);
  memcpy(out.gpr, states + 0x600, 128);
  out.flags = *(uint64_t *)(states + 0x680);
  memcpy(out.window, (void *)WINDOW, WINDOW_BYTES);
}

int main(void) {
  uint8_t *arena = mmap((void *)ARENA, ARENA_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  uint8_t *states = mmap((void *)STATES, 4096, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (arena != (void *)ARENA || states != (void *)STATES) {
    perror("native_cpu: memory at 0x20000000 and 0x30000000, to write and run code in");
    return 2;
  }
  /* More than any processor's frame: AMX's state alone is 8 KiB. */
  stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  sigaltstack(&stack, NULL);
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  int signals[] = {SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP, SIGPROF};
  for (int i = 0; i < 6; i++) sigaction(signals[i], &action, NULL);
  syscall(SYS_arch_prctl, ARCH_SET_GS, WINDOW);
  memset(arena, 0xcc, 0x1000);
  *(uint32_t *)(states + 0x2a0) = 0x1f80;
  *(uint64_t *)(states + 0x288) = CODE;
  *(uint64_t *)(states + 0x290) = (uint64_t)leave_guest;
  static char buffers[2][1 << 20];
  setvbuf(stdin, buffers[0], _IOFBF, 1 << 20);
  setvbuf(stdout, buffers[1], _IOFBF, 1 << 20);
  while (fread(&in, sizeof in, 1, stdin) == 1) {
    if (in.length == 0) {
      limit(0);
      fflush(stdout);
      limit(SECONDS);
      continue;
    }
    run(states);
    /* The instruction's own exception is raised every time. Others come once in millions of cases where the kernel runs
     * under PVM: #GP when an interrupt returns to an RSP that is not canonical, and #UD for which no reason is known. */
    for (int i = 1; i < ATTEMPTS && out.trap != ~0u; i++) {
      struct result first = out;
      run(states);
      if (in_arena(first.rip) && out.trap == first.trap && out.rip == first.rip) break;
    }
    if (out.trap != ~0u && !in_arena(out.rip)) give_up("an exception outside the instruction", 0);
    fwrite(&out, sizeof out, 1, stdout);
  }
  return 0;
}

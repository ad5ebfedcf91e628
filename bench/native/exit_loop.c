/*
 * The exit path with nothing around it: KVM_RUN, look at the exit, answer it, KVM_RUN again.
 * Usage: exit_loop <kind 0..5> <exits> <rounds> [threads]; prints nanoseconds per exit, one line a round.
 * With "threads" a second thread sleeps meanwhile: KVM_RUN then takes a reference to its file, as it does in any
 * program with threads.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int check(int result, const char *what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
  return result;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void *sleeper(void *unused) {
  for (;;) pause();
  return unused;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  int kind = atoi(argv[1]);
  long exits = atol(argv[2]);
  int rounds = atoi(argv[3]);
  /* 32-bit code with ebx = d0000h: the same bytes as bench/exit.ts assembles. */
  static const unsigned char code[6][24] = {
      {0xe6, 0x80, 0xeb, 0xfc}, /* out 80h, al */
      {0xe4, 0x80, 0xeb, 0xfc}, /* in al, 80h */
      {0x8b, 0x03, 0xeb, 0xfc}, /* mov eax, [ebx] */
      {0x89, 0x03, 0xeb, 0xfc}, /* mov [ebx], eax */
      /* mov edi, 2000h; mov ecx, 1024; mov edx, 80h; rep insb */
      {0xbf, 0, 0x20, 0, 0, 0xb9, 0, 4, 0, 0, 0xba, 0x80, 0, 0, 0, 0xf3, 0x6c, 0xeb, 0xed},
      /* mov esi, 2000h; mov ecx, 1024; mov edx, 80h; rep outsb */
      {0xbe, 0, 0x20, 0, 0, 0xb9, 0, 4, 0, 0, 0xba, 0x80, 0, 0, 0, 0xf3, 0x6e, 0xeb, 0xed},
  };
  int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000), "KVM_SET_TSS_ADDR");
  check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  /* The guest has the host's features in both loops: KVM does more at each entry for a guest with XSAVE. */
  struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof cpuid->entries[0]);
  cpuid->nent = 256;
  check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
  void *memory = mmap(0, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy((char *)memory + 0x1000, code[kind], sizeof code[kind]);
  struct kvm_userspace_memory_region region = {0, 0, 0, 0x10000, (uintptr_t)memory};
  check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  check(ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
  int size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  struct kvm_sregs sregs;
  check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  struct kvm_segment flat = {0, 0xffffffff, 0x10, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0};
  sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat;
  flat.type = 11;
  flat.selector = 0x18;
  sregs.cs = flat;
  sregs.cr0 |= 1;
  check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = 0x1000, .rbx = 0xd0000, .rflags = 2};
  check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
  uint32_t sum = 0;
  pthread_t thread;
  if (argc > 4) check(-pthread_create(&thread, 0, sleeper, 0), "pthread_create");
  for (int round = 0; round < rounds; round++) {
    double start = now();
    for (long i = 0; i < exits; i++) {
      check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
      switch (run->exit_reason) {
      case KVM_EXIT_IO: {
        unsigned char *data = (unsigned char *)run + run->io.data_offset;
        for (uint32_t n = run->io.count * run->io.size; n > 0; n--, data++) {
          if (run->io.direction == KVM_EXIT_IO_OUT) sum += *data;
          else *data = (unsigned char)sum;
        }
        break;
      }
      case KVM_EXIT_MMIO:
        if (run->mmio.is_write) sum += run->mmio.data[0];
        else memcpy(run->mmio.data, &sum, 4);
        break;
      default:
        fprintf(stderr, "exit %u\n", run->exit_reason);
        return 1;
      }
    }
    printf("%.1f\n", (now() - start) / exits);
  }
  fflush(stdout);
  _exit(sum == 1); /* keeps the loop honest */
}

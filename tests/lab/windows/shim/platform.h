/*
 * What the shim needs of its surroundings, without a C library: raw Linux system calls, which a DLL under Wine can make
 * as well as a shared object, and the types that Microsoft's definitions are written in.
 */
#pragma once

#ifdef _WIN32
#include <windows.h>
#include <winhvplatform.h>
#define EXPORT __declspec(dllexport) HRESULT WINAPI
#else
typedef unsigned char UINT8;
typedef unsigned short UINT16, USHORT, WCHAR;
typedef unsigned int UINT32;
typedef unsigned long long UINT64;
typedef int WINBOOL, HRESULT;
typedef void VOID, *PVOID, *HANDLE;
typedef struct { UINT32 LowPart; int HighPart; } LUID;
#define C_ASSERT(e) _Static_assert(e, #e)
#define __C89_NAMELESS
#define DECLSPEC_ALIGN(n) __attribute__((aligned(n)))
#define DEFINE_ENUM_FLAG_OPERATORS(type)
#define ANYSIZE_ARRAY 1
#include <winhvplatformdefs.h>
#define EXPORT __attribute__((visibility("default"))) HRESULT
#define S_OK 0
#endif
#include <linux/kvm.h>

typedef UINT8 u8;
typedef UINT16 u16;
typedef UINT32 u32;
typedef UINT64 u64;
typedef long long s64;

/* HRESULTs: winerror.h; those of the platform from the Windows Hypervisor Platform API reference. */
#undef E_INVALIDARG
#define E_INVALIDARG ((HRESULT)0x80070057)
#define WHV_E_UNKNOWN_CAPABILITY ((HRESULT)0x80370300)
#define WHV_E_INSUFFICIENT_BUFFER ((HRESULT)0x80370301)
#define WHV_E_UNKNOWN_PROPERTY ((HRESULT)0x80370302)
#define WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG ((HRESULT)0x80370303)
#define WHV_E_INVALID_PARTITION_CONFIG ((HRESULT)0x80370304)
#define WHV_E_GPA_RANGE_NOT_FOUND ((HRESULT)0x80370305)
#define WHV_E_VP_ALREADY_EXISTS ((HRESULT)0x80370306)
#define WHV_E_VP_DOES_NOT_EXIST ((HRESULT)0x80370307)
#define WHV_E_INVALID_VP_STATE ((HRESULT)0x80370308)
#define WHV_E_INVALID_VP_REGISTER_NAME ((HRESULT)0x80370309)

/* arch/x86/entry/syscalls/syscall_64.tbl */
enum {
  SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_poll = 7, SYS_mmap = 9, SYS_munmap = 11,
  SYS_rt_sigprocmask = 14, SYS_ioctl = 16, SYS_sched_yield = 24, SYS_madvise = 28, SYS_getpid = 39, SYS_gettid = 186,
  SYS_rt_sigtimedwait = 128, SYS_tgkill = 234, SYS_eventfd2 = 290,
};

static inline s64 call(s64 number, s64 a, s64 b, s64 c, s64 d, s64 e, s64 f) {
  register s64 r10 __asm__("r10") = d;
  register s64 r8 __asm__("r8") = e;
  register s64 r9 __asm__("r9") = f;
  s64 result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define ADDRESS(p) ((s64)(u64)(p))
static inline s64 kvm(int fd, u32 request, const void *argument) {
  return call(SYS_ioctl, fd, request, ADDRESS(argument), 0, 0, 0);
}
static inline s64 kvm_number(int fd, u32 request, u64 argument) {
  return call(SYS_ioctl, fd, request, (s64)argument, 0, 0, 0);
}
static inline void *map(u64 size, int flags, int fd) {
  s64 at = call(SYS_mmap, 0, (s64)size, 3, flags, fd, 0);
  return at < 0 && at > -4096 ? 0 : (void *)(u64)at;
}
/* <asm-generic/mman-common.h> */
#define MAP_SHARED_ 1
#define MAP_ANONYMOUS_ 0x22
#define EINTR_ 4
#define EAGAIN_ 11

static inline void copy(void *to, const void *from, u64 count) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}
static inline void zero(void *to, u64 count) {
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(0) : "memory");
}

/*
 * The Windows Hypervisor Platform API over Linux' KVM, for tests of backends/whpx: a WinHvPlatform.dll for Deno on Wine,
 * a shared object for Deno on Linux. Layouts and names come from mingw-w64's winhvplatform headers.
 *
 * It is strict where Windows is forgiving or silent: wrong sizes, orders, alignments, handles, unknown properties and
 * register names are refused. And it reports what WHPX reports, not what KVM does: at an exit the instruction pointer
 * is at the instruction, nothing of it has been carried out, and completing it is the caller's work. KVM carries out
 * what it leaves for; settle() and the functions around it take that back.
 *
 * What it cannot prove is Microsoft's behaviour: docs/windows.md has the list.
 */
#include "platform.h"

#define MAX_PARTITIONS 64
#define MAX_VPS 64
#define MAX_SLOTS 64
#define PAGE 4096ull
#define KICK_SIGNAL 50
#define MAX_CPUID 256
#define MAX_BELLS 256

enum { NEW, SET_UP };

typedef struct {
  u64 gpa, size, host;
  u32 flags;
  u64 *dirty; /* one bit a page: what KVM has told and nobody has asked for yet */
} Slot;

typedef struct {
  volatile int lock;
  int used, index, fd;
  struct kvm_run *run;
  u64 run_size;
  volatile int tid;    /* of the thread inside KVM_RUN */
  volatile int cancel; /* asked for and not yet reported */
  int masked_tid;
  int startup_suspend; /* without a local APIC, where KVM has no such state */
  u64 pending_interruption;
  u64 notifications;
} Vp;

typedef struct {
  WHV_DOORBELL_MATCH_DATA match;
  HANDLE event; /* 0: free */
} Bell;

typedef struct {
  volatile int lock;
  int used, state, kvm_fd, vm_fd;
  u32 processors;
  u64 extended_exits, msr_exits, exception_exits;
  u32 apic_mode;
  Slot slots[MAX_SLOTS];
  Vp vps[MAX_VPS];
  WHV_X64_CPUID_RESULT cpuid_results[64];
  u32 cpuid_count;
  u32 cpuid_exits[64];
  u32 cpuid_exit_count;
  Bell bells[MAX_BELLS];
  u64 level_vectors[4]; /* vectors whose end of interrupt KVM has been asked to report */
} Partition;

static Partition partitions[MAX_PARTITIONS];
static volatile int partitions_lock;
static int cpuid_exits_offered;
static int x2apic_refused;

#ifndef _WIN32
__attribute__((visibility("default"))) int SetEvent(HANDLE event);
#endif

#ifndef _WIN32
__attribute__((visibility("hidden"))) void *memcpy(void *to, const void *from, unsigned long count) {
  copy(to, from, count);
  return to;
}
__attribute__((visibility("hidden"))) void *memset(void *to, int value, unsigned long count) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
  return to;
}
#endif

static void lock(volatile int *word) {
  while (__sync_lock_test_and_set(word, 1)) call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}
static void unlock(volatile int *word) { __sync_lock_release(word); }

static Partition *partition_of(WHV_PARTITION_HANDLE handle) {
  for (int i = 0; i < MAX_PARTITIONS; i++) {
    if (handle == &partitions[i] && partitions[i].used) return &partitions[i];
  }
  return 0;
}
static Vp *vp_of(Partition *p, u32 index) {
  return p && index < MAX_VPS && p->vps[index].used ? &p->vps[index] : 0;
}

/* --- guest memory ------------------------------------------------------------------------------------------------ */

static u8 *guest(Partition *p, u64 gpa, u32 need) {
  for (int i = 0; i < MAX_SLOTS; i++) {
    Slot *s = &p->slots[i];
    if (s->size && gpa >= s->gpa && gpa - s->gpa < s->size) {
      if (need & ~s->flags) return 0;
      return (u8 *)(s->host + (gpa - s->gpa));
    }
  }
  return 0;
}

typedef struct {
  u64 cr0, cr3, cr4, efer, rflags;
  int cpl;
} Paging;

static void paging_of(struct kvm_sregs *s, u64 rflags, Paging *out) {
  out->cr0 = s->cr0, out->cr3 = s->cr3, out->cr4 = s->cr4, out->efer = s->efer, out->rflags = rflags;
  out->cpl = s->ss.dpl;
}

/* Linear to guest physical (SDM vol. 3, chapter 4). */
static u32 translate(Partition *p, Paging *g, u64 gva, u32 flags, u64 *gpa) {
  if (!(g->cr0 & 0x80000000)) {
    *gpa = gva & 0xffffffff;
    return WHvTranslateGvaResultSuccess;
  }
  int write = (flags & WHvTranslateGvaFlagValidateWrite) != 0;
  int execute = (flags & WHvTranslateGvaFlagValidateExecute) != 0;
  int user = g->cpl == 3 && !(flags & WHvTranslateGvaFlagPrivilegeExempt);
  int pae = (g->cr4 & 0x20) != 0;
  int wide = (g->efer & 0x400) != 0;
  int levels = wide ? (g->cr4 & 0x1000 ? 5 : 4) : pae ? 3 : 2;
  u64 table = wide ? g->cr3 & 0xffffffffff000ull : pae ? g->cr3 & 0xffffffe0 : g->cr3 & 0xfffff000;
  int writable = 1, for_user = 1, no_execute = 0;
  for (int level = levels; level >= 1; level--) {
    int bits = pae || wide ? 9 : 10;
    int shift = 12 + (level - 1) * bits;
    u64 index = (gva >> shift) & ((1 << bits) - 1);
    if (levels == 3 && level == 3) index &= 3;
    u8 *at = guest(p, table + index * (bits == 9 ? 8 : 4), WHvMapGpaRangeFlagRead);
    if (!at) return WHvTranslateGvaResultGpaUnmapped;
    u64 entry = bits == 9 ? *(u64 *)at : *(u32 *)at;
    if (!(entry & 1)) return WHvTranslateGvaResultPageNotPresent;
    if (!(levels == 3 && level == 3)) {
      writable &= (entry & 2) != 0;
      for_user &= (entry & 4) != 0;
      no_execute |= bits == 9 && (entry >> 63) && (g->efer & 0x800);
    }
    int leaf = level == 1 || (level <= 3 && (entry & 0x80) && !(levels == 3 && level == 3));
    if (leaf) {
      if (user && !for_user) return WHvTranslateGvaResultPrivilegeViolation;
      if (write && !writable && (user || (g->cr0 & 0x10000))) return WHvTranslateGvaResultPrivilegeViolation;
      if (execute && no_execute) return WHvTranslateGvaResultPrivilegeViolation;
      u64 mask = (1ull << shift) - 1;
      *gpa = (entry & 0xffffffffff000ull & ~mask) | (gva & mask);
      return WHvTranslateGvaResultSuccess;
    }
    table = entry & (bits == 9 ? 0xffffffffff000ull : 0xfffff000ull);
  }
  return WHvTranslateGvaResultPageNotPresent;
}

/* Bytes at a linear address, as many as are mapped. */
static u32 read_linear(Partition *p, Paging *g, u64 at, u8 *to, u32 count) {
  u32 done = 0;
  for (; done < count; done++) {
    u64 gpa;
    if (translate(p, g, at + done, WHvTranslateGvaFlagPrivilegeExempt, &gpa) != WHvTranslateGvaResultSuccess) break;
    u8 *byte = guest(p, gpa, WHvMapGpaRangeFlagRead);
    if (!byte) break;
    to[done] = *byte;
  }
  return done;
}

/* --- capabilities and partitions --------------------------------------------------------------------------------- */

static HRESULT answer(void *buffer, u32 room, u32 *written, const void *value, u32 size) {
  if (written) *written = size;
  if (!buffer || room < size) return WHV_E_INSUFFICIENT_BUFFER;
  copy(buffer, value, size);
  return S_OK;
}

EXPORT WHvGetCapability(WHV_CAPABILITY_CODE code, VOID *buffer, UINT32 room, UINT32 *written) {
  u64 value = 0;
  switch (code) {
    case WHvCapabilityCodeHypervisorPresent: {
      int fd = (int)call(SYS_open, ADDRESS("/dev/kvm"), 2, 0, 0, 0, 0);
      u32 present = fd >= 0;
      if (fd >= 0) call(SYS_close, fd, 0, 0, 0, 0, 0);
      return answer(buffer, room, written, &present, 4);
    }
    case WHvCapabilityCodeFeatures: {
      WHV_CAPABILITY_FEATURES f = {.AsUINT64 = 0};
      f.PartialUnmap = 1, f.LocalApicEmulation = 1, f.Xsave = 1, f.DirtyPageTracking = 1;
      return answer(buffer, room, written, &f, 8);
    }
    case WHvCapabilityCodeExtendedVmExits: {
      WHV_EXTENDED_VM_EXITS e = {.AsUINT64 = 0};
      e.X64MsrExit = 1, e.ExceptionExit = 1, e.X64CpuidExit = cpuid_exits_offered;
      return answer(buffer, room, written, &e, 8);
    }
    case WHvCapabilityCodeX64MsrExitBitmap:
      value = 1;
      return answer(buffer, room, written, &value, 8);
    case WHvCapabilityCodeExceptionExitBitmap:
      value = 1ull << WHvX64ExceptionTypeDebugTrapOrFault;
      return answer(buffer, room, written, &value, 8);
    case WHvCapabilityCodeProcessorVendor: {
      u32 b, a = 0, c, d;
      __asm__("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
      u32 vendor = b == 0x756e6547 ? WHvProcessorVendorIntel : WHvProcessorVendorAmd;
      return answer(buffer, room, written, &vendor, 4);
    }
    case WHvCapabilityCodeProcessorClFlushSize: {
      u8 size = 8;
      return answer(buffer, room, written, &size, 1);
    }
    default:
      return WHV_E_UNKNOWN_CAPABILITY;
  }
}

EXPORT WHvCreatePartition(WHV_PARTITION_HANDLE *out) {
  if (!out) return E_INVALIDARG;
  int kvm_fd = (int)call(SYS_open, ADDRESS("/dev/kvm"), 02000002, 0, 0, 0, 0);
  if (kvm_fd < 0) return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
  s64 vm_fd = -EINTR_;
  while (vm_fd == -EINTR_) vm_fd = kvm_number(kvm_fd, KVM_CREATE_VM, 0);
  if (vm_fd < 0) {
    call(SYS_close, kvm_fd, 0, 0, 0, 0, 0);
    return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
  }
  lock(&partitions_lock);
  for (int i = 0; i < MAX_PARTITIONS; i++) {
    Partition *p = &partitions[i];
    if (p->used) continue;
    zero(p, sizeof *p);
    p->used = 1, p->kvm_fd = kvm_fd, p->vm_fd = (int)vm_fd;
    unlock(&partitions_lock);
    *out = p;
    return S_OK;
  }
  unlock(&partitions_lock);
  return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
}

EXPORT WHvSetPartitionProperty(
  WHV_PARTITION_HANDLE handle, WHV_PARTITION_PROPERTY_CODE code, const VOID *buffer, UINT32 size) {
  Partition *p = partition_of(handle);
  if (!p || !buffer) return E_INVALIDARG;
  u64 value = 0;
  if (code == WHvPartitionPropertyCodeExceptionExitBitmap) {
    /* The one that may change later, while no processor runs. */
    if (size != 8) return E_INVALIDARG;
    copy(&value, buffer, 8);
    if (!(p->extended_exits & 4) || (value & ~(1ull << WHvX64ExceptionTypeDebugTrapOrFault))) {
      return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
    }
    for (int i = 0; i < MAX_VPS; i++) if (p->vps[i].used && p->vps[i].tid) return WHV_E_INVALID_VP_STATE;
    p->exception_exits = value;
    return S_OK;
  }
  if (p->state != NEW) return WHV_E_INVALID_PARTITION_CONFIG;
  switch (code) {
    case WHvPartitionPropertyCodeProcessorCount:
      if (size != 4) return E_INVALIDARG;
      copy(&p->processors, buffer, 4);
      return p->processors >= 1 && p->processors <= MAX_VPS ? S_OK : E_INVALIDARG;
    case WHvPartitionPropertyCodeExtendedVmExits:
      if (size != 8) return E_INVALIDARG;
      copy(&value, buffer, 8);
      /* Only what the capability says. */
      if (value & ~(6ull | cpuid_exits_offered)) return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
      p->extended_exits = value;
      return S_OK;
    case WHvPartitionPropertyCodeX64MsrExitBitmap:
      if (size != 8) return E_INVALIDARG;
      copy(&value, buffer, 8);
      if (value & ~1ull) return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
      p->msr_exits = value;
      return S_OK;
    case WHvPartitionPropertyCodeLocalApicEmulationMode:
      if (size != 4) return E_INVALIDARG;
      copy(&p->apic_mode, buffer, 4);
      if (p->apic_mode == WHvX64LocalApicEmulationModeX2Apic && x2apic_refused) {
        p->apic_mode = WHvX64LocalApicEmulationModeNone;
        return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
      }
      return p->apic_mode <= 2 ? S_OK : E_INVALIDARG;
    case WHvPartitionPropertyCodeCpuidExitList:
      if (size % 4 || size > sizeof p->cpuid_exits) return E_INVALIDARG;
      if (size && !(p->extended_exits & 1)) return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
      copy(p->cpuid_exits, buffer, size);
      p->cpuid_exit_count = size / 4;
      return S_OK;
    case WHvPartitionPropertyCodeCpuidResultList:
      if (size % sizeof(WHV_X64_CPUID_RESULT) || size > sizeof p->cpuid_results) return E_INVALIDARG;
      copy(p->cpuid_results, buffer, size);
      p->cpuid_count = size / sizeof(WHV_X64_CPUID_RESULT);
      for (u32 i = 0; i < p->cpuid_count; i++) {
        WHV_X64_CPUID_RESULT *r = &p->cpuid_results[i];
        if (r->Reserved[0] | r->Reserved[1] | r->Reserved[2]) return E_INVALIDARG;
      }
      return S_OK;
    default:
      return WHV_E_UNKNOWN_PROPERTY;
  }
}

EXPORT WHvSetupPartition(WHV_PARTITION_HANDLE handle) {
  Partition *p = partition_of(handle);
  if (!p) return E_INVALIDARG;
  if (p->state != NEW || p->processors == 0) return WHV_E_INVALID_PARTITION_CONFIG;
  u64 identity = 0xfeffc000;
  kvm(p->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
  kvm_number(p->vm_fd, KVM_SET_TSS_ADDR, 0xfeffd000);
  if (p->apic_mode != WHvX64LocalApicEmulationModeNone) {
    /* Lines of an I/O APIC whose ends KVM reports; it keeps the number in a byte. */
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {255}};
    if (kvm(p->vm_fd, KVM_ENABLE_CAP, &split) < 0) return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
    struct kvm_enable_cap wide = {.cap = KVM_CAP_X2APIC_API, .args = {KVM_X2APIC_API_USE_32BIT_IDS}};
    kvm(p->vm_fd, KVM_ENABLE_CAP, &wide);
  }
  if ((p->extended_exits & 2) && (p->msr_exits & 1)) {
    struct kvm_enable_cap msr = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {KVM_MSR_EXIT_REASON_UNKNOWN}};
    if (kvm(p->vm_fd, KVM_ENABLE_CAP, &msr) < 0) return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
  }
  p->state = SET_UP;
  return S_OK;
}

EXPORT WHvDeletePartition(WHV_PARTITION_HANDLE handle) {
  Partition *p = partition_of(handle);
  if (!p) return E_INVALIDARG;
  for (int i = 0; i < MAX_VPS; i++) {
    if (p->vps[i].used) return WHV_E_INVALID_VP_STATE; /* Windows would delete them; a leak of ours must show */
  }
  for (int i = 0; i < MAX_SLOTS; i++) {
    Slot *s = &p->slots[i];
    if (s->dirty) call(SYS_munmap, ADDRESS(s->dirty), (s64)(s->size / PAGE / 8 + 64), 0, 0, 0, 0);
  }
  call(SYS_close, p->vm_fd, 0, 0, 0, 0, 0);
  call(SYS_close, p->kvm_fd, 0, 0, 0, 0, 0);
  p->used = 0;
  return S_OK;
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

static HRESULT set_slot(Partition *p, int index) {
  Slot *s = &p->slots[index];
  struct kvm_userspace_memory_region region = {
    .slot = (u32)index,
    .flags = (s->flags & WHvMapGpaRangeFlagWrite ? 0 : KVM_MEM_READONLY) |
      (s->flags & WHvMapGpaRangeFlagTrackDirtyPages ? KVM_MEM_LOG_DIRTY_PAGES : 0),
    .guest_phys_addr = s->gpa,
    .memory_size = s->size,
    .userspace_addr = s->host,
  };
  if (!s->size) region.flags = 0;
  return kvm(p->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? E_INVALIDARG : S_OK;
}

EXPORT WHvMapGpaRange(
  WHV_PARTITION_HANDLE handle, VOID *source, WHV_GUEST_PHYSICAL_ADDRESS gpa, UINT64 size, WHV_MAP_GPA_RANGE_FLAGS flags) {
  Partition *p = partition_of(handle);
  if (!p || p->state != SET_UP) return E_INVALIDARG;
  if (!size || (gpa | size | (u64)source) % PAGE || !source) return E_INVALIDARG;
  if ((flags & ~15u) || !(flags & WHvMapGpaRangeFlagRead)) return E_INVALIDARG;
  lock(&p->lock);
  int at = -1;
  for (int i = 0; i < MAX_SLOTS; i++) {
    Slot *s = &p->slots[i];
    if (s->size && gpa < s->gpa + s->size && s->gpa < gpa + size) {
      /* Mapping again what is mapped replaces it; parts of it are more than these tests ask for. */
      if (s->gpa != gpa || s->size != size || s->host != (u64)source) {
        unlock(&p->lock);
        return E_INVALIDARG;
      }
      at = i;
      break;
    }
    if (at < 0 && !s->size) at = i;
  }
  HRESULT result = E_INVALIDARG;
  if (at >= 0) {
    Slot *s = &p->slots[at], old = *s;
    s->gpa = gpa, s->size = size, s->host = (u64)source, s->flags = flags;
    if (!s->dirty) s->dirty = map(size / PAGE / 8 + 64, MAP_ANONYMOUS_, -1);
    else zero(s->dirty, size / PAGE / 8 + 64);
    /* KVM changes the write permission of a slot only by making it anew. */
    if (old.size && ((old.flags ^ flags) & WHvMapGpaRangeFlagWrite)) {
      s->size = 0;
      set_slot(p, at);
      s->size = size;
    }
    result = set_slot(p, at);
    if (result != S_OK) *s = old;
  }
  unlock(&p->lock);
  return result;
}

EXPORT WHvUnmapGpaRange(WHV_PARTITION_HANDLE handle, WHV_GUEST_PHYSICAL_ADDRESS gpa, UINT64 size) {
  Partition *p = partition_of(handle);
  if (!p || !size || (gpa | size) % PAGE) return E_INVALIDARG;
  lock(&p->lock);
  HRESULT result = WHV_E_GPA_RANGE_NOT_FOUND;
  for (int i = 0; i < MAX_SLOTS; i++) {
    Slot *s = &p->slots[i];
    if (s->size != size || s->gpa != gpa) continue;
    if (s->dirty) call(SYS_munmap, ADDRESS(s->dirty), (s64)(s->size / PAGE / 8 + 64), 0, 0, 0, 0);
    s->size = 0, s->dirty = 0;
    result = set_slot(p, i);
    break;
  }
  unlock(&p->lock);
  return result;
}

EXPORT WHvQueryGpaRangeDirtyBitmap(
  WHV_PARTITION_HANDLE handle, WHV_GUEST_PHYSICAL_ADDRESS gpa, UINT64 size, UINT64 *bitmap, UINT32 bytes) {
  Partition *p = partition_of(handle);
  if (!p || !size || (gpa | size) % PAGE || ((u64)bitmap & 7)) return E_INVALIDARG;
  u64 pages = size / PAGE;
  if (bytes && (!bitmap || bytes < (pages + 63) / 64 * 8)) return E_INVALIDARG;
  lock(&p->lock);
  HRESULT result = WHV_E_GPA_RANGE_NOT_FOUND;
  for (int i = 0; i < MAX_SLOTS; i++) {
    Slot *s = &p->slots[i];
    if (!s->size || gpa < s->gpa || gpa + size > s->gpa + s->size) continue;
    if (!(s->flags & WHvMapGpaRangeFlagTrackDirtyPages)) break;
    u64 words = (s->size / PAGE + 63) / 64;
    u64 *now = map(words * 8, MAP_ANONYMOUS_, -1);
    struct kvm_dirty_log log = {.slot = (u32)i, .dirty_bitmap = now};
    kvm(p->vm_fd, KVM_GET_DIRTY_LOG, &log);
    for (u64 w = 0; w < words; w++) s->dirty[w] |= now[w];
    call(SYS_munmap, ADDRESS(now), (s64)(words * 8), 0, 0, 0, 0);
    if (bytes) zero(bitmap, bytes);
    u64 first = (gpa - s->gpa) / PAGE;
    for (u64 page = 0; page < pages; page++) {
      u64 n = first + page, bit = 1ull << (n & 63);
      if (bytes && (s->dirty[n >> 6] & bit)) bitmap[page >> 6] |= 1ull << (page & 63);
      s->dirty[n >> 6] &= ~bit;
    }
    result = S_OK;
    break;
  }
  unlock(&p->lock);
  return result;
}

/* --- virtual processors ------------------------------------------------------------------------------------------ */

typedef struct {
  u32 nent, padding;
  struct kvm_cpuid_entry2 entries[MAX_CPUID];
} Cpuid;

/* What the hypervisor answers by itself: the host's features, and a topology of one package. */
static void set_cpuid(Partition *p, Vp *v) {
  static Cpuid scratch;
  lock(&partitions_lock);
  Cpuid *c = &scratch;
  zero(c, sizeof *c);
  c->nent = MAX_CPUID - 8;
  kvm(p->kvm_fd, KVM_GET_SUPPORTED_CPUID, c);
  u32 bits = 0, n = 0;
  while ((1u << bits) < p->processors) bits++;
  for (u32 i = 0; i < c->nent; i++) {
    struct kvm_cpuid_entry2 e = c->entries[i];
    if (e.function == 0xb || e.function == 0x1f || (e.function >> 8) == 0x400000) continue;
    if (e.function == 0 && e.eax < 0xb) e.eax = 0xb;
    if (e.function == 1) {
      e.ebx = (e.ebx & 0xffff) | (1u << bits) << 16 | (u32)v->index << 24;
      e.ecx &= ~((1u << 5) | (1u << 21) | (1u << 24));
      if (p->apic_mode == WHvX64LocalApicEmulationModeX2Apic) e.ecx |= 1u << 21;
      if (p->apic_mode) e.ecx |= 1u << 24;
      e.ecx |= 1u << 31;
      e.edx = p->processors > 1 ? e.edx | 1u << 28 : e.edx & ~(1u << 28);
    }
    if (e.function == 0x80000001) e.ecx &= ~4u;
    c->entries[n++] = e;
  }
  for (u32 sub = 0; sub < 3; sub++) {
    struct kvm_cpuid_entry2 e = {.function = 0xb, .index = sub, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
    e.edx = (u32)v->index;
    e.ecx = sub | (sub == 0 ? 0x100 : sub == 1 ? 0x200 : 0);
    e.ebx = sub == 0 ? 1 : sub == 1 ? p->processors : 0;
    e.eax = sub == 1 ? bits : 0;
    c->entries[n++] = e;
  }
  for (u32 r = 0; r < p->cpuid_count; r++) {
    WHV_X64_CPUID_RESULT *result = &p->cpuid_results[r];
    struct kvm_cpuid_entry2 e = {.function = result->Function};
    e.eax = result->Eax, e.ebx = result->Ebx, e.ecx = result->Ecx, e.edx = result->Edx;
    u32 at = n;
    for (u32 i = 0; i < n; i++) if (c->entries[i].function == e.function) at = i;
    c->entries[at] = e;
    if (at == n) n++;
  }
  c->nent = n;
  kvm(v->fd, KVM_SET_CPUID2, c);
  unlock(&partitions_lock);
}

EXPORT WHvCreateVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index, UINT32 flags) {
  Partition *p = partition_of(handle);
  if (!p || p->state != SET_UP || flags || index >= p->processors) return E_INVALIDARG;
  Vp *v = &p->vps[index];
  if (v->used) return WHV_E_VP_ALREADY_EXISTS;
  zero(v, sizeof *v);
  s64 fd = kvm_number(p->vm_fd, KVM_CREATE_VCPU, index);
  if (fd < 0) return WHV_E_INVALID_VP_STATE;
  v->fd = (int)fd, v->index = (int)index;
  v->run_size = (u64)kvm_number(p->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  v->run = map(v->run_size, MAP_SHARED_, v->fd);
  set_cpuid(p, v);
  struct { u32 length; u8 set[8]; } mask = {.length = 8};
  for (int i = 0; i < 8; i++) mask.set[i] = 0xff;
  mask.set[(KICK_SIGNAL - 1) / 8] &= (u8)~(1 << ((KICK_SIGNAL - 1) % 8));
  kvm(v->fd, KVM_SET_SIGNAL_MASK, &mask);
  if (p->apic_mode) {
    /* All begin runnable: who wants a processor to wait for its start-up has to say so. */
    struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
    kvm(v->fd, KVM_SET_MP_STATE, &state);
  }
  v->used = 1;
  return S_OK;
}

EXPORT WHvDeleteVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index) {
  Partition *p = partition_of(handle);
  Vp *v = vp_of(p, index);
  if (!p) return E_INVALIDARG;
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  lock(&v->lock);
  if (v->tid) {
    unlock(&v->lock);
    return WHV_E_INVALID_VP_STATE;
  }
  v->used = 0;
  call(SYS_munmap, ADDRESS(v->run), (s64)v->run_size, 0, 0, 0, 0);
  call(SYS_close, v->fd, 0, 0, 0, 0, 0);
  unlock(&v->lock);
  return S_OK;
}

static u64 kick_set(void) { return 1ull << (KICK_SIGNAL - 1); }

EXPORT WHvCancelRunVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index, UINT32 flags) {
  Partition *p = partition_of(handle);
  if (!p || flags) return E_INVALIDARG;
  Vp *v = vp_of(p, index);
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  lock(&v->lock);
  if (v->used) {
    v->cancel = 1;
    v->run->immediate_exit = 1;
    if (v->tid) call(SYS_tgkill, call(SYS_getpid, 0, 0, 0, 0, 0, 0), v->tid, KICK_SIGNAL, 0, 0, 0);
  }
  unlock(&v->lock);
  return S_OK;
}

/* One KVM_RUN; between the two locks a cancel reaches this thread by signal. */
static s64 enter(Vp *v) {
  int tid = (int)call(SYS_gettid, 0, 0, 0, 0, 0, 0);
  u64 set = kick_set();
  if (v->masked_tid != tid) {
    call(SYS_rt_sigprocmask, 0, ADDRESS(&set), 0, 8, 0, 0);
    v->masked_tid = tid;
  }
  lock(&v->lock);
  v->tid = tid;
  v->run->immediate_exit = v->cancel ? 1 : 0;
  unlock(&v->lock);
  s64 result = kvm_number(v->fd, KVM_RUN, 0);
  lock(&v->lock);
  v->tid = 0;
  unlock(&v->lock);
  s64 no_time[2] = {0, 0};
  while (call(SYS_rt_sigtimedwait, ADDRESS(&set), 0, ADDRESS(no_time), 8, 0, 0) > 0) {}
  return result;
}

/* Lets KVM finish what it left for, without entering the guest; what it reads then is of no matter. */
static void finish_exit(Vp *v) {
  for (int i = 0; i < 64; i++) {
    v->run->immediate_exit = 1;
    if (kvm_number(v->fd, KVM_RUN, 0) != 0) return;
  }
}

/* --- taking back what KVM has done --------------------------------------------------------------------------------- */

/* In the order of ModR/M. */
static __u64 *gpr(struct kvm_regs *r, int n) {
  __u64 *all[16] = {&r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
                    &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15};
  return all[n & 15];
}

static int code_bits(struct kvm_sregs *s) {
  return (s->efer & 0x400) && s->cs.l ? 64 : s->cs.db ? 32 : 16;
}

typedef struct {
  u32 length, size;
  u64 linear;       /* of the memory operand */
  int string;       /* rdi moves: 1 STOS, 2 MOVS */
  int repeat;
  int pop;
  int known;        /* the value is: */
  u64 value;
} Store;

static u64 mask_of(int size) { return size == 8 ? ~0ull : size == 4 ? 0xffffffff : 0xffff; }

/* Decodes one instruction that stores without loading first (SDM vol. 2); 0 when it is none. */
static int decode_store(const u8 *b, u32 count, int bits, struct kvm_regs *r, struct kvm_sregs *s, Store *out) {
  u32 at = 0;
  int osize = 0, asize = 0, f2 = 0, f3 = 0, rex = 0;
  struct kvm_segment *segment = 0;
  for (; at < count; at++) {
    u8 c = b[at];
    if (c == 0x66) osize = 1;
    else if (c == 0x67) asize = 1;
    else if (c == 0xf2) f2 = 1;
    else if (c == 0xf3) f3 = 1;
    else if (c == 0x26) segment = &s->es;
    else if (c == 0x2e) segment = &s->cs;
    else if (c == 0x36) segment = &s->ss;
    else if (c == 0x3e) segment = &s->ds;
    else if (c == 0x64) segment = &s->fs;
    else if (c == 0x65) segment = &s->gs;
    else if (c != 0xf0) break;
  }
  if (bits == 64 && at < count && (b[at] & 0xf0) == 0x40) rex = b[at++];
  if (at >= count) return 0;
  int normal = rex & 8 ? 8 : (bits == 16) != osize ? 2 : 4;
  int address = bits == 64 ? (asize ? 4 : 8) : (bits == 16) != asize ? 2 : 4;
  u8 op = b[at++];
  int map = 0;
  if (op == 0x0f && at < count) {
    op = b[at++], map = 1;
    if (op == 0x38 && at < count) op = b[at++], map = 2;
  }
  zero(out, sizeof *out);
  out->repeat = f2 || f3;
  int immediate = 0, digit = -1;
  if (map == 0) {
    if (op == 0xaa || op == 0xab || op == 0xa4 || op == 0xa5) {
      out->string = op < 0xa6 ? 2 : 1;
      out->size = op & 1 ? normal : 1;
      out->length = at;
      u64 delta = r->rflags & 0x400 ? -(u64)out->size : out->size;
      u64 rdi = (r->rdi - delta) & mask_of(address);
      out->linear = rdi + (bits == 64 ? 0 : s->es.base);
      out->known = out->string == 1, out->value = r->rax;
      return 1;
    }
    if (op == 0xa2 || op == 0xa3) {
      u64 target = 0;
      if (at + address > count) return 0;
      copy(&target, b + at, address);
      out->size = op & 1 ? normal : 1;
      out->length = at + address;
      out->known = 1, out->value = r->rax;
      if (!segment) segment = &s->ds;
      out->linear = target + (bits != 64 || segment == &s->fs || segment == &s->gs ? segment->base : 0);
      return 1;
    }
    switch (op) {
      case 0x88: out->size = 1; break;
      case 0x89: out->size = normal; break;
      case 0xc6: out->size = 1, immediate = 1, digit = 0; break;
      case 0xc7: out->size = normal, immediate = normal > 4 ? 4 : normal, digit = 0; break;
      case 0x8f: out->size = bits == 64 && normal == 4 ? 8 : normal, digit = 0, out->pop = 1; break;
      default: return 0;
    }
  } else if (map == 1) {
    if ((op & 0xf0) == 0x90) out->size = 1;
    else switch (op) {
      case 0x11: out->size = f3 ? 4 : f2 ? 8 : 16; break;
      case 0x13: case 0x17: out->size = 8; break;
      case 0x29: case 0x2b: out->size = 16; break;
      case 0x7f: case 0xe7:
        if (!osize && !(f3 && op == 0x7f)) return 0;
        out->size = 16;
        break;
      case 0xd6: case 0x7e:
        if (!osize || f3) return 0;
        out->size = op == 0xd6 || (rex & 8) ? 8 : 4;
        break;
      case 0xc3: out->size = rex & 8 ? 8 : 4; break;
      default: return 0;
    }
  } else if (op == 0xf1) out->size = normal;
  else return 0;
  if (at >= count) return 0;
  u8 modrm = b[at++];
  int mod = modrm >> 6, rm = modrm & 7;
  if (mod == 3 || (digit >= 0 && ((modrm >> 3) & 7) != digit)) return 0;
  u64 linear = 0;
  int stack = 0, relative = 0;
  s64 displacement = 0;
  int width = mod == 1 ? 1 : mod == 2 ? (address == 2 ? 2 : 4) : 0;
  if (address == 2) {
    static const int first[8] = {3, 3, 5, 5, 6, 7, 5, 3}, second[4] = {6, 7, 6, 7};
    if (mod == 0 && rm == 6) width = 2;
    else {
      linear = *gpr(r, first[rm]);
      if (rm < 4) linear += *gpr(r, second[rm]);
      stack = rm == 2 || rm == 3 || rm == 6;
    }
  } else {
    int base = rm | (rex & 1) << 3;
    if (rm == 4) {
      if (at >= count) return 0;
      u8 sib = b[at++];
      int index = ((sib >> 3) & 7) | (rex & 2) << 2;
      base = (sib & 7) | (rex & 1) << 3;
      if (index != 4) linear += *gpr(r, index) << (sib >> 6);
      if ((sib & 7) == 5 && mod == 0) width = 4;
      else linear += *gpr(r, base), stack = base == 4 || base == 5;
    } else if (mod == 0 && rm == 5) width = 4, relative = bits == 64;
    else linear += *gpr(r, base), stack = base == 5;
  }
  if (at + width + immediate > count) return 0;
  if (width == 1) displacement = (signed char)b[at];
  if (width == 2) displacement = (short)(b[at] | b[at + 1] << 8);
  if (width == 4) displacement = (int)(b[at] | b[at + 1] << 8 | b[at + 2] << 16 | (u32)b[at + 3] << 24);
  out->length = at + width + immediate;
  if (map == 0 && (op == 0x88 || op == 0x89)) {
    int source = ((modrm >> 3) & 7) | (rex & 4) << 1;
    out->known = 1;
    out->value = op == 0x88 && !rex && source >= 4 ? *gpr(r, source - 4) >> 8 : *gpr(r, source);
  } else if (immediate) {
    out->known = 1;
    out->value = (u64)(s64)(immediate == 1 ? (signed char)b[at + width]
      : immediate == 2 ? (short)(b[at + width] | b[at + width + 1] << 8)
      : (int)(b[at + width] | b[at + width + 1] << 8 | b[at + width + 2] << 16 | (u32)b[at + width + 3] << 24));
  }
  /* The instruction pointer of the caller's registers is already behind it. */
  linear += (u64)displacement + (relative ? r->rip : 0);
  linear &= mask_of(address);
  if (!segment) segment = stack ? &s->ss : &s->ds;
  if (bits != 64 || segment == &s->fs || segment == &s->gs) linear += segment->base;
  if (bits != 64) linear &= 0xffffffff;
  out->linear = linear;
  return 1;
}

static void add_masked(__u64 *value, u64 delta, u64 mask) {
  u64 result = (*value + delta) & mask;
  *value = mask == 0xffff ? (*value & ~mask) | result : result;
}

/* After a store that KVM has carried out: the registers before it. False when the instruction was not found. */
static int undo_store(Partition *p, struct kvm_regs *r, struct kvm_sregs *s, u64 gpa, u32 size, u64 data, u32 *length) {
  Paging g;
  paging_of(s, r->rflags, &g);
  int bits = code_bits(s);
  u64 base = bits == 64 ? 0 : s->cs.base;
  u8 code[30];
  Store store;
  /* A repetition that goes on stands at its instruction. */
  u32 ahead = read_linear(p, &g, base + r->rip, code + 15, 15);
  u64 found;
  int ok = 0;
  if (ahead && decode_store(code + 15, ahead, bits, r, s, &store) && store.string && store.repeat) {
    ok = translate(p, &g, store.linear, WHvTranslateGvaFlagPrivilegeExempt, &found) == 0 && found == gpa;
    if (ok) *length = store.length;
  }
  for (u32 back = 1; back <= 15 && !ok; back++) {
    u8 bytes[15];
    if (read_linear(p, &g, base + r->rip - back, bytes, back) != back) break;
    if (!decode_store(bytes, back, bits, r, s, &store) || store.length != back) continue;
    u64 linear = store.linear;
    if (translate(p, &g, linear, WHvTranslateGvaFlagPrivilegeExempt, &found) != 0) continue;
    /* A store that straddles: KVM leaves for its second half, at the next page's start. */
    u64 next = (linear | 0xfff) + 1, second = 0;
    int straddles = next - linear < store.size &&
      translate(p, &g, next, WHvTranslateGvaFlagPrivilegeExempt, &second) == 0;
    if (found != gpa && !(straddles && second == gpa)) continue;
    /* Of two instructions that both end here, one with a prefix more, the shorter will do: if it stores the same. */
    if (!straddles && store.size != size) continue;
    u64 mask = store.size >= 8 ? ~0ull : (1ull << store.size * 8) - 1;
    if (!straddles && store.known && ((store.value ^ data) & mask)) continue;
    r->rip -= back;
    *length = back;
    ok = 1;
  }
  if (!ok) return 0;
  if (store.string) {
    int address = bits == 64 ? 8 : bits == 32 ? 4 : 2;
    for (int i = 0; i < 4; i++) {
      u8 byte;
      if (read_linear(p, &g, base + r->rip + i, &byte, 1) != 1) break;
      if (byte == 0x67) address = bits == 64 ? 4 : bits == 32 ? 2 : 4;
    }
    u64 mask = mask_of(address);
    u64 back = r->rflags & 0x400 ? store.size : -(u64)store.size;
    add_masked(&r->rdi, back, mask);
    if (store.string == 2) add_masked(&r->rsi, back, mask);
    if (store.repeat) add_masked(&r->rcx, 1, mask);
  }
  if (store.pop) r->rsp -= store.size;
  return 1;
}

/* After an OUT or OUTS that KVM has carried out. */
static int undo_out(Partition *p, struct kvm_regs *r, struct kvm_sregs *s, u32 port, u32 size, u32 *length, int *string,
                    int *repeat) {
  Paging g;
  paging_of(s, r->rflags, &g);
  int bits = code_bits(s);
  u64 base = bits == 64 ? 0 : s->cs.base;
  u8 b[16];
  *string = *repeat = 0;
  int prefix = size != 1 && (size == 2) != (bits == 16);
  /* A repetition that goes on. */
  u32 ahead = read_linear(p, &g, base + r->rip, b, 15);
  for (u32 i = 0, rep = 0; i < ahead; i++) {
    if (b[i] == 0xf3 || b[i] == 0xf2) rep = 1;
    else if ((b[i] == 0x6e || b[i] == 0x6f) && rep) {
      *string = *repeat = 1, *length = i + 1;
      break;
    } else if (b[i] != 0x66 && b[i] != 0x67 && !(bits == 64 && (b[i] & 0xf0) == 0x40) && b[i] != 0x26 && b[i] != 0x2e &&
               b[i] != 0x36 && b[i] != 0x3e && b[i] != 0x64 && b[i] != 0x65) break;
  }
  if (!*string) {
    u8 one[2] = {0, 0};
    read_linear(p, &g, base + r->rip - 2, one, 2);
    int wide = size > 1;
    u32 back = 0;
    if (one[1] == (wide ? 0xef : 0xee) && (r->rdx & 0xffff) == port) back = 1;
    else if (one[0] == (wide ? 0xe7 : 0xe6) && one[1] == port) back = 2;
    else if (one[1] == (wide ? 0x6f : 0x6e)) back = 1, *string = 1;
    else return 0;
    back += prefix;
    if (*string) {
      /* Prefixes as far as they stand there; one too many would be this instruction's as well. */
      for (;;) {
        u8 c;
        if (read_linear(p, &g, base + r->rip - back - 1, &c, 1) != 1) break;
        if (c == 0xf3 || c == 0xf2) *repeat = 1;
        else if (c != 0x67 && c != 0x66) break;
        back++;
      }
    }
    r->rip -= back;
    *length = back;
  }
  if (*string) {
    u64 mask = mask_of(bits == 64 ? 8 : bits == 32 ? 4 : 2);
    add_masked(&r->rsi, r->rflags & 0x400 ? size : -(u64)size, mask);
    if (*repeat) add_masked(&r->rcx, 1, mask);
  }
  return 1;
}

/* --- running ------------------------------------------------------------------------------------------------------- */

static void segment_out(struct kvm_segment *k, WHV_X64_SEGMENT_REGISTER *w) {
  w->Base = k->base, w->Limit = k->limit, w->Selector = k->selector;
  w->Attributes = (u16)(k->type | k->s << 4 | k->dpl << 5 | (k->present && !k->unusable) << 7 | k->avl << 12 | k->l << 13 |
                        k->db << 14 | k->g << 15);
}
static void segment_in(const WHV_X64_SEGMENT_REGISTER *w, struct kvm_segment *k) {
  u16 a = w->Attributes;
  zero(k, sizeof *k);
  k->base = w->Base, k->limit = w->Limit, k->selector = w->Selector;
  k->type = a & 15, k->s = a >> 4 & 1, k->dpl = a >> 5 & 3, k->present = a >> 7 & 1;
  k->avl = a >> 12 & 1, k->l = a >> 13 & 1, k->db = a >> 14 & 1, k->g = a >> 15 & 1, k->unusable = !k->present;
}

static void vp_context(Vp *v, struct kvm_regs *r, struct kvm_sregs *s, u32 length, WHV_VP_EXIT_CONTEXT *out) {
  struct kvm_vcpu_events e;
  kvm(v->fd, KVM_GET_VCPU_EVENTS, &e);
  zero(out, sizeof *out);
  out->ExecutionState.Cpl = s->ss.dpl & 3;
  out->ExecutionState.Cr0Pe = s->cr0 & 1;
  out->ExecutionState.Cr0Am = s->cr0 >> 18 & 1;
  out->ExecutionState.EferLma = s->efer >> 10 & 1;
  out->ExecutionState.InterruptionPending = e.interrupt.injected || e.exception.injected || e.nmi.injected;
  out->ExecutionState.InterruptShadow = e.interrupt.shadow != 0;
  out->InstructionLength = length & 15;
  out->Cr8 = s->cr8 & 15;
  segment_out(&s->cs, &out->Cs);
  out->Rip = r->rip;
  out->Rflags = r->rflags;
}

static void instruction_bytes(Partition *p, struct kvm_regs *r, struct kvm_sregs *s, u8 *bytes, u8 *count) {
  Paging g;
  paging_of(s, r->rflags, &g);
  u64 base = code_bits(s) == 64 ? 0 : s->cs.base;
  *count = (u8)read_linear(p, &g, base + r->rip, bytes, 16);
}

/* Whether the instruction may read into a vector register, which settling would spoil. */
static int touches_vectors(const u8 *b, u32 count) {
  for (u32 i = 0; i < count && i < 6; i++) if (b[i] == 0x0f || b[i] == 0xc5 || b[i] == 0xc4) return 1;
  return 0;
}

static HRESULT exit_mmio(Partition *p, Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out) {
  struct kvm_regs r;
  struct kvm_sregs s;
  struct kvm_run *run = v->run;
  u64 gpa = run->mmio.phys_addr;
  int write = run->mmio.is_write;
  u32 length = 0;
  kvm(v->fd, KVM_GET_REGS, &r);
  kvm(v->fd, KVM_GET_SREGS, &s);
  WHV_MEMORY_ACCESS_CONTEXT *m = &out->MemoryAccess;
  if (write) {
    u64 data = 0;
    u32 size = run->mmio.len;
    copy(&data, run->mmio.data, size & 15);
    /* Sixteen bytes come as two exits. */
    for (run->immediate_exit = 1; kvm_number(v->fd, KVM_RUN, 0) == 0; run->immediate_exit = 1) size += run->mmio.len;
    if (!undo_store(p, &r, &s, gpa, size, data, &length)) return WHV_E_INVALID_VP_STATE;
    instruction_bytes(p, &r, &s, m->InstructionBytes, &m->InstructionByteCount);
  } else {
    instruction_bytes(p, &r, &s, m->InstructionBytes, &m->InstructionByteCount);
    static struct kvm_xsave spare[MAX_VPS];
    struct kvm_vcpu_events events;
    int vectors = touches_vectors(m->InstructionBytes, m->InstructionByteCount);
    kvm(v->fd, KVM_GET_VCPU_EVENTS, &events);
    if (vectors) kvm(v->fd, KVM_GET_XSAVE, &spare[v->index]);
    struct kvm_regs last = r;
    /* A repetition would go on reading: this is its last round. */
    if (m->InstructionByteCount && (m->InstructionBytes[0] == 0xf3 || m->InstructionBytes[0] == 0xf2)) {
      last.rcx = 1;
      kvm(v->fd, KVM_SET_REGS, &last);
    }
    finish_exit(v);
    kvm(v->fd, KVM_GET_REGS, &last);
    if (last.rip > r.rip && last.rip - r.rip <= 15) length = (u32)(last.rip - r.rip);
    if (vectors) kvm(v->fd, KVM_SET_XSAVE, &spare[v->index]);
    kvm(v->fd, KVM_SET_VCPU_EVENTS, &events);
  }
  kvm(v->fd, KVM_SET_REGS, &r);
  out->ExitReason = WHvRunVpExitReasonMemoryAccess;
  m->AccessInfo.AccessType = write ? WHvMemoryAccessWrite : WHvMemoryAccessRead;
  m->AccessInfo.GpaUnmapped = guest(p, gpa, WHvMapGpaRangeFlagRead) == 0;
  m->Gpa = gpa;
  vp_context(v, &r, &s, length, &out->VpContext);
  return S_OK;
}

static HRESULT exit_io(Partition *p, Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out) {
  struct kvm_regs r, after;
  struct kvm_sregs s;
  struct kvm_run *run = v->run;
  int write = run->io.direction == KVM_EXIT_IO_OUT;
  u32 port = run->io.port, size = run->io.size, length = 0;
  int string = 0, repeat = 0;
  kvm(v->fd, KVM_GET_REGS, &r);
  kvm(v->fd, KVM_GET_SREGS, &s);
  finish_exit(v);
  kvm(v->fd, KVM_GET_REGS, &after);
  WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &out->IoPortAccess;
  if (write) {
    if (after.rip != r.rip) length = (u32)(after.rip - r.rip);
    else if (!undo_out(p, &r, &s, port, size, &length, &string, &repeat)) return WHV_E_INVALID_VP_STATE;
    instruction_bytes(p, &r, &s, io->InstructionBytes, &io->InstructionByteCount);
  } else {
    instruction_bytes(p, &r, &s, io->InstructionBytes, &io->InstructionByteCount);
    for (u32 i = 0; i < io->InstructionByteCount; i++) {
      u8 b = io->InstructionBytes[i];
      length = i + 1;
      if (b == 0xf3 || b == 0xf2) repeat = 1;
      else if (b == 0x6c || b == 0x6d) {
        string = 1;
        break;
      } else if (b == 0xe4 || b == 0xe5) {
        length++;
        break;
      } else if (b == 0xec || b == 0xed) break;
    }
    repeat &= string;
  }
  kvm(v->fd, KVM_SET_REGS, &r);
  out->ExitReason = WHvRunVpExitReasonX64IoPortAccess;
  io->AccessInfo.IsWrite = write;
  io->AccessInfo.AccessSize = size;
  io->AccessInfo.StringOp = string;
  io->AccessInfo.RepPrefix = repeat;
  io->PortNumber = (u16)port;
  io->Rax = r.rax, io->Rcx = r.rcx, io->Rsi = r.rsi, io->Rdi = r.rdi;
  segment_out(&s.ds, &io->Ds);
  segment_out(&s.es, &io->Es);
  vp_context(v, &r, &s, length, &out->VpContext);
  return S_OK;
}

static HRESULT exit_msr(Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out, int write) {
  struct kvm_regs r, after;
  struct kvm_sregs s;
  kvm(v->fd, KVM_GET_REGS, &r);
  kvm(v->fd, KVM_GET_SREGS, &s);
  u32 index = v->run->msr.index;
  v->run->msr.error = 0;
  finish_exit(v);
  kvm(v->fd, KVM_GET_REGS, &after);
  kvm(v->fd, KVM_SET_REGS, &r);
  out->ExitReason = WHvRunVpExitReasonX64MsrAccess;
  out->MsrAccess.AccessInfo.IsWrite = write;
  out->MsrAccess.MsrNumber = index;
  out->MsrAccess.Rax = r.rax, out->MsrAccess.Rdx = r.rdx;
  vp_context(v, &r, &s, (u32)(after.rip - r.rip), &out->VpContext);
  return S_OK;
}

/* The answer KVM would give; what of it follows other registers comes from them (SDM vol. 2, CPUID). */
static void default_cpuid(Partition *p, Vp *v, struct kvm_regs *r, struct kvm_sregs *s, struct kvm_cpuid_entry2 *out) {
  static Cpuid scratch;
  u32 leaf = (u32)r->rax, sub = (u32)r->rcx;
  zero(out, sizeof *out);
  lock(&partitions_lock);
  scratch.nent = MAX_CPUID;
  kvm(v->fd, KVM_GET_CPUID2, &scratch);
  for (u32 i = 0; i < scratch.nent; i++) {
    struct kvm_cpuid_entry2 *e = &scratch.entries[i];
    if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == sub)) *out = *e;
  }
  unlock(&partitions_lock);
  if (leaf == 1) out->ecx = (out->ecx & ~(1u << 27)) | (s->cr4 >> 18 & 1) << 27;
  /* Without an APIC of its own the platform says what its processor has. */
  if (leaf == 1 && !p->apic_mode) out->ecx |= 1u << 21 | 1u << 24;
}

/* An exit when the guest stands at a CPUID that was asked for. */
static int at_cpuid(Partition *p, Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out) {
  struct kvm_regs r;
  struct kvm_sregs s;
  struct kvm_cpuid_entry2 e;
  Paging g;
  u8 code[2];
  kvm(v->fd, KVM_GET_REGS, &r);
  kvm(v->fd, KVM_GET_SREGS, &s);
  paging_of(&s, r.rflags, &g);
  u64 linear = code_bits(&s) == 64 ? r.rip : (u32)(r.rip + s.cs.base);
  if (read_linear(p, &g, linear, code, 2) != 2 || code[0] != 0x0f || code[1] != 0xa2) return 0;
  u32 i = 0;
  while (i < p->cpuid_exit_count && p->cpuid_exits[i] != (u32)r.rax) i++;
  if (i == p->cpuid_exit_count) return 0;
  default_cpuid(p, v, &r, &s, &e);
  WHV_X64_CPUID_ACCESS_CONTEXT *c = &out->CpuidAccess;
  c->Rax = r.rax, c->Rcx = r.rcx, c->Rdx = r.rdx, c->Rbx = r.rbx;
  c->DefaultResultRax = e.eax, c->DefaultResultRcx = e.ecx, c->DefaultResultRdx = e.edx, c->DefaultResultRbx = e.ebx;
  out->ExitReason = WHvRunVpExitReasonX64Cpuid;
  vp_context(v, &r, &s, 2, &out->VpContext);
  return 1;
}

static int same_bell(const WHV_DOORBELL_MATCH_DATA *a, const WHV_DOORBELL_MATCH_DATA *b) {
  return a->GuestAddress == b->GuestAddress && a->MatchOnLength == b->MatchOnLength && a->Length == b->Length &&
    a->MatchOnValue == b->MatchOnValue && (!a->MatchOnValue || a->Value == b->Value);
}

/* Whether a store that KVM left for rings a doorbell: then it is done, and the guest goes on. */
static int rings(Partition *p, struct kvm_run *run) {
  if (!run->mmio.is_write || run->mmio.len > 8) return 0;
  u64 data = 0;
  int rung = 0;
  copy(&data, run->mmio.data, run->mmio.len);
  lock(&p->lock);
  for (int i = 0; i < MAX_BELLS && !rung; i++) {
    Bell *b = &p->bells[i];
    if (!b->event || b->match.GuestAddress != run->mmio.phys_addr) continue;
    if (b->match.MatchOnLength && b->match.Length != run->mmio.len) continue;
    if (b->match.MatchOnValue && b->match.Value != data) continue;
    SetEvent(b->event);
    rung = 1;
  }
  unlock(&p->lock);
  return rung;
}

static HRESULT plain_exit(Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out, WHV_RUN_VP_EXIT_REASON reason) {
  struct kvm_regs r;
  struct kvm_sregs s;
  kvm(v->fd, KVM_GET_REGS, &r);
  kvm(v->fd, KVM_GET_SREGS, &s);
  out->ExitReason = reason;
  vp_context(v, &r, &s, 0, &out->VpContext);
  return S_OK;
}

/* Hands pending events over; false when the processor could not take them in its present state. */
static int inject(Partition *p, Vp *v) {
  WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = v->pending_interruption};
  if (!pending.InterruptionPending) return 1;
  struct kvm_vcpu_events e;
  struct kvm_regs r;
  v->pending_interruption = 0;
  kvm(v->fd, KVM_GET_VCPU_EVENTS, &e);
  kvm(v->fd, KVM_GET_REGS, &r);
  switch (pending.InterruptionType) {
    case WHvX64PendingInterrupt:
      if (!(r.rflags & 0x200) || e.interrupt.shadow) return 0;
      if (p->apic_mode) {
        e.interrupt.injected = 1, e.interrupt.nr = (u8)pending.InterruptionVector, e.interrupt.soft = 0;
        kvm(v->fd, KVM_SET_VCPU_EVENTS, &e);
      } else {
        struct kvm_interrupt interrupt = {.irq = pending.InterruptionVector};
        if (kvm(v->fd, KVM_INTERRUPT, &interrupt) < 0) return 0;
      }
      return 1;
    case WHvX64PendingNmi:
      return kvm_number(v->fd, KVM_NMI, 0) >= 0;
    case WHvX64PendingException:
      if (pending.InterruptionVector > 31) return 0;
      e.exception.injected = 1, e.exception.nr = (u8)pending.InterruptionVector;
      e.exception.has_error_code = pending.DeliverErrorCode, e.exception.error_code = pending.ErrorCode;
      kvm(v->fd, KVM_SET_VCPU_EVENTS, &e);
      return 1;
    default:
      return 0;
  }
}

#define TRAP_FLAG 0x100ull
#define RESUME_FLAG 0x10000ull

static void guest_debug(Vp *v, u32 control) {
  struct kvm_guest_debug debug = {.control = control};
  kvm(v->fd, KVM_SET_GUEST_DEBUG, &debug);
}

static HRESULT debug_exit(Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out) {
  out->VpException.ExceptionType = WHvX64ExceptionTypeDebugTrapOrFault;
  return plain_exit(v, out, WHvRunVpExitReasonException);
}

/*
 * Before an entry with #DB intercepted: KVM steps where the guest's RFLAGS.TF or its DR7 ask for #DB. Breakpoints are
 * compared here, an instruction at a time: not every KVM arms DR7 (QEMU's emulated SVM does not). True when the guest
 * stands at a breakpoint now.
 */
static int watch(Vp *v, int trap_flag, int *watching) {
  struct kvm_regs r;
  struct kvm_sregs s;
  struct kvm_debugregs d;
  kvm(v->fd, KVM_GET_REGS, &r);
  kvm(v->fd, KVM_GET_SREGS, &s);
  kvm(v->fd, KVM_GET_DEBUGREGS, &d);
  u64 linear = code_bits(&s) == 64 ? r.rip : (u32)(r.rip + s.cs.base);
  int enabled = 0;
  for (int i = 0; i < 4; i++) {
    /* DR7: two enables each, then four bits of kind and length, all zero for execution (SDM vol. 3, 18.2.4). */
    if (!(d.dr7 >> (i * 2) & 3) || (d.dr7 >> (16 + i * 4) & 15)) continue;
    enabled = 1;
    if (d.db[i] == linear && !(r.rflags & RESUME_FLAG)) return 1;
  }
  *watching = enabled || trap_flag;
  return 0;
}

static HRESULT run_guest(Partition *p, Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out, int trap_flag);

EXPORT WHvRunVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index, VOID *context, UINT32 size) {
  Partition *p = partition_of(handle);
  if (!p || !context || size != sizeof(WHV_RUN_VP_EXIT_CONTEXT)) return E_INVALIDARG;
  Vp *v = vp_of(p, index);
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  WHV_RUN_VP_EXIT_CONTEXT *out = context;
  zero(out, sizeof *out);
  if (!(p->exception_exits & 2)) return run_guest(p, v, out, 0);
  /* The flag is kept from KVM, which steps by another way: with it, completing an instruction would raise #DB. */
  struct kvm_regs r;
  kvm(v->fd, KVM_GET_REGS, &r);
  int trap_flag = (r.rflags & TRAP_FLAG) != 0;
  if (trap_flag) r.rflags &= ~TRAP_FLAG, kvm(v->fd, KVM_SET_REGS, &r);
  HRESULT result = run_guest(p, v, out, trap_flag);
  if (trap_flag) {
    kvm(v->fd, KVM_GET_REGS, &r);
    r.rflags |= TRAP_FLAG, kvm(v->fd, KVM_SET_REGS, &r);
    out->VpContext.Rflags |= TRAP_FLAG;
  }
  return result;
}

static HRESULT run_guest(Partition *p, Vp *v, WHV_RUN_VP_EXIT_CONTEXT *out, int trap_flag) {
  if (!inject(p, v)) return plain_exit(v, out, WHvRunVpExitReasonInvalidVpRegisterValue);
  WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER notify = {.AsUINT64 = v->notifications};
  for (;;) {
    if (!p->apic_mode) v->run->request_interrupt_window = notify.InterruptNotification;
    int watching = 0;
    if (p->exception_exits & 2) {
      if (watch(v, trap_flag, &watching)) return debug_exit(v, out);
      if (watching) guest_debug(v, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
    }
    if (p->cpuid_exit_count) {
      if (at_cpuid(p, v, out)) return S_OK;
      if (!watching) guest_debug(v, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
      watching = 1;
    }
    s64 result = enter(v);
    if (watching) guest_debug(v, 0);
    if (result == -EAGAIN_) continue;
    if (result == -EINTR_) {
      lock(&v->lock);
      int asked = v->cancel;
      v->cancel = 0;
      v->run->immediate_exit = 0;
      unlock(&v->lock);
      if (!asked) continue;
      return plain_exit(v, out, WHvRunVpExitReasonCanceled);
    }
    if (result < 0) return WHV_E_INVALID_VP_STATE;
    switch (v->run->exit_reason) {
      case KVM_EXIT_IO:
        return exit_io(p, v, out);
      case KVM_EXIT_MMIO:
        if (rings(p, v->run)) continue;
        return exit_mmio(p, v, out);
      case KVM_EXIT_X86_RDMSR:
        return exit_msr(v, out, 0);
      case KVM_EXIT_X86_WRMSR:
        return exit_msr(v, out, 1);
      case KVM_EXIT_HLT:
        return plain_exit(v, out, WHvRunVpExitReasonX64Halt);
      case KVM_EXIT_SHUTDOWN:
        return plain_exit(v, out, WHvRunVpExitReasonUnrecoverableException);
      case KVM_EXIT_IRQ_WINDOW_OPEN:
        v->notifications &= ~2ull;
        out->InterruptWindow.DeliverableType = WHvX64PendingInterrupt;
        return plain_exit(v, out, WHvRunVpExitReasonX64InterruptWindow);
      case KVM_EXIT_IOAPIC_EOI:
        out->ApicEoi.InterruptVector = v->run->eoi.vector;
        return plain_exit(v, out, WHvRunVpExitReasonX64ApicEoi);
      case KVM_EXIT_SET_TPR:
        continue;
      case KVM_EXIT_DEBUG:
        if (trap_flag) return debug_exit(v, out);
        continue;
      case KVM_EXIT_INTERNAL_ERROR: {
        /* KVM cannot emulate an instruction: here mostly because it lies where no memory is. */
        struct kvm_regs r;
        struct kvm_sregs s;
        Paging g;
        u64 gpa;
        kvm(v->fd, KVM_GET_REGS, &r);
        kvm(v->fd, KVM_GET_SREGS, &s);
        paging_of(&s, r.rflags, &g);
        u64 linear = r.rip + (code_bits(&s) == 64 ? 0 : s.cs.base);
        if (translate(p, &g, linear, WHvTranslateGvaFlagPrivilegeExempt, &gpa) == 0 && !guest(p, gpa, 1)) {
          out->MemoryAccess.AccessInfo.AccessType = WHvMemoryAccessExecute;
          out->MemoryAccess.AccessInfo.GpaUnmapped = 1;
          out->MemoryAccess.Gpa = gpa;
          return plain_exit(v, out, WHvRunVpExitReasonMemoryAccess);
        }
        out->UnsupportedFeature.FeatureCode = WHvUnsupportedFeatureIntercept;
        out->UnsupportedFeature.FeatureParameter = v->run->internal.suberror;
        return plain_exit(v, out, WHvRunVpExitReasonUnsupportedFeature);
      }
      default:
        out->UnsupportedFeature.FeatureCode = WHvUnsupportedFeatureIntercept;
        out->UnsupportedFeature.FeatureParameter = v->run->exit_reason;
        return plain_exit(v, out, WHvRunVpExitReasonUnsupportedFeature);
    }
  }
}

/* --- registers ----------------------------------------------------------------------------------------------------- */

typedef struct {
  u32 name, msr;
} MsrName;

/* Registers that are MSRs (SDM vol. 4, table 2-2; AMD APM vol. 2, appendix A). */
static const MsrName MSRS[] = {
  {WHvX64RegisterTsc, 0x10},
  {WHvX64RegisterKernelGsBase, 0xc0000102},
  {WHvX64RegisterPat, 0x277},
  {WHvX64RegisterSysenterCs, 0x174},
  {WHvX64RegisterSysenterEip, 0x176},
  {WHvX64RegisterSysenterEsp, 0x175},
  {WHvX64RegisterStar, 0xc0000081},
  {WHvX64RegisterLstar, 0xc0000082},
  {WHvX64RegisterCstar, 0xc0000083},
  {WHvX64RegisterSfmask, 0xc0000084},
  {WHvX64RegisterMsrMtrrCap, 0xfe},
  {WHvX64RegisterMsrMtrrDefType, 0x2ff},
  {WHvX64RegisterMsrMtrrFix64k00000, 0x250},
  {WHvX64RegisterMsrMtrrFix16k80000, 0x258},
  {WHvX64RegisterMsrMtrrFix16kA0000, 0x259},
  {WHvX64RegisterTscAux, 0xc0000103},
  {WHvX64RegisterSpecCtrl, 0x48},
  {WHvX64RegisterTscDeadline, 0x6e0},
  {WHvX64RegisterTscAdjust, 0x3b},
  {WHvX64RegisterXss, 0xda0},
};

static u32 msr_of(u32 name) {
  for (u32 i = 0; i < sizeof MSRS / sizeof *MSRS; i++) if (MSRS[i].name == name) return MSRS[i].msr;
  if (name >= WHvX64RegisterMsrMtrrFix4kC0000 && name <= WHvX64RegisterMsrMtrrFix4kF8000) {
    return 0x268 + name - WHvX64RegisterMsrMtrrFix4kC0000;
  }
  if (name >= WHvX64RegisterMsrMtrrPhysBase0 && name <= WHvX64RegisterMsrMtrrPhysBase7) {
    return 0x200 + 2 * (name - WHvX64RegisterMsrMtrrPhysBase0);
  }
  if (name >= WHvX64RegisterMsrMtrrPhysMask0 && name <= WHvX64RegisterMsrMtrrPhysMask7) {
    return 0x201 + 2 * (name - WHvX64RegisterMsrMtrrPhysMask0);
  }
  return 0;
}

static s64 msr_access(Vp *v, u32 request, u32 index, u64 *value) {
  struct { u32 count, padding; struct kvm_msr_entry entry; } list = {.count = 1, .entry = {.index = index, .data = *value}};
  s64 result = kvm(v->fd, request, &list);
  *value = list.entry.data;
  return result;
}

enum { REGS = 1, SREGS = 2, DEBUG = 4, EVENTS = 8, XSAVE = 16, XCRS = 32 };

/* What one call reads once and writes once. */
typedef struct {
  u32 have, changed;
  struct kvm_regs regs;
  struct kvm_sregs sregs;
  struct kvm_debugregs debug;
  struct kvm_vcpu_events events;
  struct kvm_xcrs xcrs;
  struct kvm_xsave *xsave;
} State;

static struct kvm_xsave xsaves[MAX_VPS];

static void need(Vp *v, State *t, u32 what) {
  u32 missing = what & ~t->have;
  if (missing & REGS) kvm(v->fd, KVM_GET_REGS, &t->regs);
  if (missing & SREGS) kvm(v->fd, KVM_GET_SREGS, &t->sregs);
  if (missing & DEBUG) kvm(v->fd, KVM_GET_DEBUGREGS, &t->debug);
  if (missing & EVENTS) kvm(v->fd, KVM_GET_VCPU_EVENTS, &t->events);
  if (missing & XCRS) kvm(v->fd, KVM_GET_XCRS, &t->xcrs);
  if (missing & XSAVE) kvm(v->fd, KVM_GET_XSAVE, t->xsave = &xsaves[v->index]);
  t->have |= what;
}
static int put(Vp *v, State *t) {
  s64 bad = 0;
  if (t->changed & REGS) bad |= kvm(v->fd, KVM_SET_REGS, &t->regs);
  if (t->changed & XCRS) bad |= kvm(v->fd, KVM_SET_XCRS, &t->xcrs);
  if (t->changed & SREGS) bad |= kvm(v->fd, KVM_SET_SREGS, &t->sregs);
  if (t->changed & DEBUG) bad |= kvm(v->fd, KVM_SET_DEBUGREGS, &t->debug);
  if (t->changed & XSAVE) bad |= kvm(v->fd, KVM_SET_XSAVE, t->xsave);
  if (t->changed & EVENTS) {
    t->events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    bad |= kvm(v->fd, KVM_SET_VCPU_EVENTS, &t->events);
  }
  return bad >= 0;
}

/* One register, out or in; false for a name that is not known. */
static int move_register(Partition *p, Vp *v, State *t, u32 name, WHV_REGISTER_VALUE *w, int set) {
  __u64 *word = 0;
  u32 what = 0;
  if (name <= WHvX64RegisterR15) need(v, t, what = REGS), word = gpr(&t->regs, (int)name);
  else if (name == WHvX64RegisterRip) need(v, t, what = REGS), word = &t->regs.rip;
  else if (name == WHvX64RegisterRflags) need(v, t, what = REGS), word = &t->regs.rflags;
  else if (name >= WHvX64RegisterEs && name <= WHvX64RegisterTr) {
    struct kvm_sregs *s = &t->sregs;
    need(v, t, SREGS);
    struct kvm_segment *all[8] = {&s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs, &s->ldt, &s->tr};
    if (set) segment_in(&w->Segment, all[name - WHvX64RegisterEs]), t->changed |= SREGS;
    else segment_out(all[name - WHvX64RegisterEs], &w->Segment);
    return 1;
  } else if (name == WHvX64RegisterIdtr || name == WHvX64RegisterGdtr) {
    need(v, t, SREGS);
    struct kvm_dtable *table = name == WHvX64RegisterIdtr ? &t->sregs.idt : &t->sregs.gdt;
    if (set) table->base = w->Table.Base, table->limit = w->Table.Limit, t->changed |= SREGS;
    else w->Table.Base = table->base, w->Table.Limit = table->limit;
    return 1;
  } else switch (name) {
    case WHvX64RegisterCr0: need(v, t, what = SREGS), word = &t->sregs.cr0; break;
    case WHvX64RegisterCr2: need(v, t, what = SREGS), word = &t->sregs.cr2; break;
    case WHvX64RegisterCr3: need(v, t, what = SREGS), word = &t->sregs.cr3; break;
    case WHvX64RegisterCr4: need(v, t, what = SREGS), word = &t->sregs.cr4; break;
    case WHvX64RegisterCr8: need(v, t, what = SREGS), word = &t->sregs.cr8; break;
    case WHvX64RegisterEfer: need(v, t, what = SREGS), word = &t->sregs.efer; break;
    case WHvX64RegisterApicBase: need(v, t, what = SREGS), word = &t->sregs.apic_base; break;
    case WHvX64RegisterDr0: case WHvX64RegisterDr1: case WHvX64RegisterDr2: case WHvX64RegisterDr3:
      need(v, t, what = DEBUG), word = &t->debug.db[name - WHvX64RegisterDr0];
      break;
    case WHvX64RegisterDr6: need(v, t, what = DEBUG), word = &t->debug.dr6; break;
    case WHvX64RegisterDr7: need(v, t, what = DEBUG), word = &t->debug.dr7; break;
    case WHvX64RegisterXCr0: need(v, t, what = XCRS), word = &t->xcrs.xcrs[0].value, t->xcrs.nr_xcrs = 1; break;
    case WHvRegisterPendingInterruption:
      if (set) v->pending_interruption = w->Reg64;
      else {
        WHV_X64_PENDING_INTERRUPTION_REGISTER r = {.AsUINT64 = v->pending_interruption};
        need(v, t, EVENTS);
        if (t->events.interrupt.injected && !t->events.interrupt.soft) {
          r.InterruptionPending = 1, r.InterruptionVector = t->events.interrupt.nr;
        } else if (t->events.exception.injected) {
          r.InterruptionPending = 1, r.InterruptionType = WHvX64PendingException;
          r.InterruptionVector = t->events.exception.nr;
          r.DeliverErrorCode = t->events.exception.has_error_code, r.ErrorCode = t->events.exception.error_code;
        } else if (t->events.nmi.injected) r.InterruptionPending = 1, r.InterruptionType = WHvX64PendingNmi;
        w->Reg64 = r.AsUINT64;
      }
      return 1;
    case WHvRegisterPendingEvent:
      if (set) {
        if (!w->ExceptionEvent.EventPending) return 1;
        if (w->ExceptionEvent.EventType != WHvX64PendingEventException || w->ExceptionEvent.Vector > 31) return 0;
        WHV_X64_PENDING_INTERRUPTION_REGISTER r = {.AsUINT64 = 0};
        r.InterruptionPending = 1, r.InterruptionType = WHvX64PendingException;
        r.InterruptionVector = w->ExceptionEvent.Vector;
        r.DeliverErrorCode = w->ExceptionEvent.DeliverErrorCode, r.ErrorCode = w->ExceptionEvent.ErrorCode;
        v->pending_interruption = r.AsUINT64;
        if (w->ExceptionEvent.Vector == 14) {
          need(v, t, SREGS), t->sregs.cr2 = w->ExceptionEvent.ExceptionParameter, t->changed |= SREGS;
        }
      } else zero(w, sizeof *w);
      return 1;
    case WHvRegisterInterruptState:
      need(v, t, EVENTS);
      if (set) {
        t->events.interrupt.shadow = w->InterruptState.InterruptShadow ? KVM_X86_SHADOW_INT_STI : 0;
        t->events.nmi.masked = w->InterruptState.NmiMasked, t->changed |= EVENTS;
      } else {
        w->InterruptState.InterruptShadow = t->events.interrupt.shadow != 0;
        w->InterruptState.NmiMasked = t->events.nmi.masked;
      }
      return 1;
    case WHvX64RegisterPendingDebugException:
      /* KVM tells of its steps and keeps nothing. */
      if (set) return w->Reg64 == 0;
      w->Reg64 = 0;
      return 1;
    case WHvX64RegisterDeliverabilityNotifications:
      if (set) v->notifications = w->Reg64;
      else w->Reg64 = v->notifications;
      return 1;
    case WHvRegisterInternalActivityState: {
      struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
      if (p->apic_mode) kvm(v->fd, KVM_GET_MP_STATE, &state);
      if (set) {
        if (w->InternalActivity.Reserved) return 0;
        v->startup_suspend = w->InternalActivity.StartupSuspend;
        state.mp_state = w->InternalActivity.StartupSuspend ? KVM_MP_STATE_UNINITIALIZED
          : w->InternalActivity.HaltSuspend ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
        if (p->apic_mode) kvm(v->fd, KVM_SET_MP_STATE, &state);
      } else {
        w->InternalActivity.StartupSuspend = p->apic_mode
          ? state.mp_state == KVM_MP_STATE_UNINITIALIZED || state.mp_state == KVM_MP_STATE_INIT_RECEIVED
          : v->startup_suspend;
        w->InternalActivity.HaltSuspend = state.mp_state == KVM_MP_STATE_HALTED;
      }
      return 1;
    }
    default:
      if (name >= WHvX64RegisterXmm0 && name <= WHvX64RegisterXmm15) {
        need(v, t, XSAVE);
        /* The legacy area (SDM vol. 1, 10.5.1): XMM from byte 160, XSTATE_BV at 512. */
        u8 *at = (u8 *)t->xsave->region + 160 + 16 * (name - WHvX64RegisterXmm0);
        if (set) copy(at, w, 16), t->xsave->region[128] |= 2, t->changed |= XSAVE;
        else copy(w, at, 16);
        return 1;
      }
      u32 msr = msr_of(name);
      if (!msr) return 0;
      return msr_access(v, set ? KVM_SET_MSRS : KVM_GET_MSRS, msr, (u64 *)&w->Reg64) == 1;
  }
  if (set) *word = w->Reg64, t->changed |= what;
  else w->Reg64 = *word;
  return 1;
}

static HRESULT move_registers(WHV_PARTITION_HANDLE handle, u32 index, const WHV_REGISTER_NAME *names, u32 count,
                              WHV_REGISTER_VALUE *values, int set) {
  Partition *p = partition_of(handle);
  if (!p || !names || !values || !count || ((u64)values & 15) || ((u64)names & 3)) return E_INVALIDARG;
  Vp *v = vp_of(p, index);
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  State state;
  state.have = state.changed = 0;
  for (u32 i = 0; i < count; i++) {
    WHV_REGISTER_VALUE value;
    if (set) value = values[i];
    else zero(&value, sizeof value);
    if (!move_register(p, v, &state, (u32)names[i], &value, set)) return WHV_E_INVALID_VP_REGISTER_NAME;
    if (!set) values[i] = value;
  }
  return put(v, &state) ? S_OK : E_INVALIDARG;
}

EXPORT WHvGetVirtualProcessorRegisters(
  WHV_PARTITION_HANDLE handle, UINT32 index, const WHV_REGISTER_NAME *names, UINT32 count, WHV_REGISTER_VALUE *values) {
  return move_registers(handle, index, names, count, values, 0);
}
EXPORT WHvSetVirtualProcessorRegisters(
  WHV_PARTITION_HANDLE handle, UINT32 index, const WHV_REGISTER_NAME *names, UINT32 count,
  const WHV_REGISTER_VALUE *values) {
  return move_registers(handle, index, names, count, (WHV_REGISTER_VALUE *)values, 1);
}

EXPORT WHvTranslateGva(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_GUEST_VIRTUAL_ADDRESS gva,
                       WHV_TRANSLATE_GVA_FLAGS flags, WHV_TRANSLATE_GVA_RESULT *result,
                       WHV_GUEST_PHYSICAL_ADDRESS *gpa) {
  Partition *p = partition_of(handle);
  Vp *v = vp_of(p, index);
  if (!p || !result || !gpa || (flags & ~0x31fu)) return E_INVALIDARG;
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  struct kvm_sregs s;
  struct kvm_regs r;
  Paging g;
  kvm(v->fd, KVM_GET_SREGS, &s);
  kvm(v->fd, KVM_GET_REGS, &r);
  paging_of(&s, r.rflags, &g);
  u64 found = 0;
  result->Reserved = 0;
  result->ResultCode = translate(p, &g, gva, flags, &found);
  if (result->ResultCode == WHvTranslateGvaResultSuccess && !guest(p, found, 0)) {
    result->ResultCode = WHvTranslateGvaResultGpaUnmapped;
  }
  *gpa = found;
  return S_OK;
}

/* --- XSAVE: Windows hands out the compacted form (SDM vol. 1, 13.4.3) ------------------------------------------------ */

static void cpuid(u32 leaf, u32 sub, u32 *a, u32 *b, u32 *c, u32 *d) {
  *a = leaf, *c = sub;
  __asm__ volatile("cpuid" : "+a"(*a), "=b"(*b), "+c"(*c), "=d"(*d));
}

static u32 compact(u8 *standard, u8 *compacted, u64 features, int out) {
  u32 at = 576, a, b, c, d;
  if (out) copy(compacted, standard, 576);
  else copy(standard, compacted, 576);
  for (int i = 2; i < 62; i++) {
    if (!(features >> i & 1)) continue;
    cpuid(0xd, (u32)i, &a, &b, &c, &d);
    if (c & 2) at = (at + 63) & ~63u;
    if (b + a > 4096) break;
    if (out) copy(compacted + at, standard + b, a);
    else copy(standard + b, compacted + at, a);
    at += a;
  }
  return at;
}

static u64 xsave_features(Partition *p) {
  static Cpuid scratch;
  static u64 known;
  if (known) return known;
  lock(&partitions_lock);
  scratch.nent = MAX_CPUID;
  kvm(p->kvm_fd, KVM_GET_SUPPORTED_CPUID, &scratch);
  u64 features = 3;
  for (u32 i = 0; i < scratch.nent; i++) {
    struct kvm_cpuid_entry2 *e = &scratch.entries[i];
    if (e->function == 0xd && e->index == 0) features = e->eax | (u64)e->edx << 32;
  }
  features &= ~(3ull << 17); /* AMX does not fit KVM_GET_XSAVE's page */
  known = features | 3;
  unlock(&partitions_lock);
  return known;
}

EXPORT WHvGetVirtualProcessorXsaveState(
  WHV_PARTITION_HANDLE handle, UINT32 index, VOID *buffer, UINT32 room, UINT32 *written) {
  Partition *p = partition_of(handle);
  Vp *v = vp_of(p, index);
  if (!p) return E_INVALIDARG;
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  static struct kvm_xsave standard[MAX_VPS];
  static u8 compacted[MAX_VPS][8192];
  kvm(v->fd, KVM_GET_XSAVE, &standard[index]);
  u64 features = xsave_features(p);
  zero(compacted[index], sizeof compacted[index]);
  u32 size = compact((u8 *)&standard[index], compacted[index], features, 1);
  *(u64 *)(compacted[index] + 520) = features | 1ull << 63; /* XCOMP_BV */
  return answer(buffer, room, written, compacted[index], size);
}
EXPORT WHvSetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE handle, UINT32 index, const VOID *buffer, UINT32 size) {
  Partition *p = partition_of(handle);
  Vp *v = vp_of(p, index);
  if (!p || !buffer || size < 576) return E_INVALIDARG;
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  static struct kvm_xsave standard[MAX_VPS];
  u64 form = *(const u64 *)((const u8 *)buffer + 520);
  u64 features = xsave_features(p);
  if (form != (features | 1ull << 63)) return E_INVALIDARG;
  zero(&standard[index], sizeof standard[index]);
  compact((u8 *)&standard[index], (u8 *)buffer, features, 0);
  *(u64 *)((u8 *)&standard[index] + 520) = 0;
  return kvm(v->fd, KVM_SET_XSAVE, &standard[index]) < 0 ? E_INVALIDARG : S_OK;
}

/* --- interrupts ----------------------------------------------------------------------------------------------------- */

EXPORT WHvGetVirtualProcessorInterruptControllerState2(
  WHV_PARTITION_HANDLE handle, UINT32 index, VOID *state, UINT32 room, UINT32 *written) {
  Partition *p = partition_of(handle);
  Vp *v = vp_of(p, index);
  if (!p || !p->apic_mode) return E_INVALIDARG;
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  static u8 page[MAX_VPS][4096];
  kvm(v->fd, KVM_GET_LAPIC, page[index]);
  return answer(state, room, written, page[index], 4096);
}
EXPORT WHvSetVirtualProcessorInterruptControllerState2(
  WHV_PARTITION_HANDLE handle, UINT32 index, const VOID *state, UINT32 size) {
  Partition *p = partition_of(handle);
  Vp *v = vp_of(p, index);
  if (!p || !p->apic_mode || !state || size != 4096) return E_INVALIDARG;
  if (!v) return WHV_E_VP_DOES_NOT_EXIST;
  return kvm(v->fd, KVM_SET_LAPIC, state) < 0 ? E_INVALIDARG : S_OK;
}

EXPORT WHvRequestInterrupt(WHV_PARTITION_HANDLE handle, const WHV_INTERRUPT_CONTROL *c, UINT32 size) {
  Partition *p = partition_of(handle);
  if (!p || !c || size != sizeof *c || c->Reserved || !p->apic_mode || p->state != SET_UP) return E_INVALIDARG;
  if (c->DestinationMode > 1 || c->TriggerMode > 1) return E_INVALIDARG;
  if (c->Type != 0 && c->Type != 1 && c->Type != 4 && c->Type != 5 && c->Type != 6) return E_INVALIDARG;
  if (c->Type < 2 && (c->Vector < 16 || c->Vector > 255)) return E_INVALIDARG;
  if (c->TriggerMode && c->Type < 2) {
    lock(&p->lock);
    u64 bit = 1ull << (c->Vector & 63);
    if (!(p->level_vectors[c->Vector >> 6] & bit)) {
      p->level_vectors[c->Vector >> 6] |= bit;
      /* KVM reports the end of those vectors that a route of a level-triggered line has. */
      static struct { u32 count, flags; struct kvm_irq_routing_entry entries[254]; } routes;
      zero(&routes, sizeof routes);
      for (u32 vector = 0; vector < 256 && routes.count < 254; vector++) {
        if (!(p->level_vectors[vector >> 6] >> (vector & 63) & 1)) continue;
        /* To all processors, those with xAPIC and those with x2APIC; level, asserted. */
        for (u32 wide = 0; wide < 2; wide++) {
          struct kvm_irq_routing_entry *e = &routes.entries[routes.count];
          e->gsi = routes.count++, e->type = KVM_IRQ_ROUTING_MSI;
          e->u.msi.address_lo = 0xfeeff000, e->u.msi.address_hi = wide ? 0xffffff00 : 0;
          e->u.msi.data = vector | 0xc000;
        }
      }
      kvm(p->vm_fd, KVM_SET_GSI_ROUTING, &routes);
    }
    unlock(&p->lock);
  }
  struct kvm_msi msi = {
    .address_lo = 0xfee00000 | (c->Destination & 0xff) << 12 | (u32)c->DestinationMode << 2,
    .address_hi = c->Destination & 0xffffff00,
    .data = c->Vector | (u32)c->Type << 8 | (c->TriggerMode ? 0xc000 : 0),
  };
  kvm(p->vm_fd, KVM_SIGNAL_MSI, &msi);
  return S_OK;
}

/* --- doorbells ------------------------------------------------------------------------------------------------------ */

EXPORT WHvRegisterPartitionDoorbellEvent(
  WHV_PARTITION_HANDLE handle, const WHV_DOORBELL_MATCH_DATA *m, HANDLE event) {
  Partition *p = partition_of(handle);
  if (!p || !m || m->Reserved || !event) return E_INVALIDARG;
  if (m->MatchOnLength ? m->Length != 1 && m->Length != 2 && m->Length != 4 && m->Length != 8 : m->Length != 0) {
    return E_INVALIDARG;
  }
  lock(&p->lock);
  Bell *free = 0, *same = 0;
  for (int i = 0; i < MAX_BELLS; i++) {
    Bell *b = &p->bells[i];
    if (!b->event) free = b;
    else if (same_bell(&b->match, m)) same = b;
  }
  if (free && !same) free->match = *m, free->event = event;
  unlock(&p->lock);
  return free && !same ? S_OK : E_INVALIDARG;
}
EXPORT WHvUnregisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE handle, const WHV_DOORBELL_MATCH_DATA *m) {
  Partition *p = partition_of(handle);
  if (!p || !m || m->Reserved) return E_INVALIDARG;
  HRESULT result = E_INVALIDARG;
  lock(&p->lock);
  for (int i = 0; i < MAX_BELLS; i++) {
    Bell *b = &p->bells[i];
    if (b->event && same_bell(&b->match, m)) b->event = 0, result = S_OK;
  }
  unlock(&p->lock);
  return result;
}

/* --- CPUID exits ---------------------------------------------------------------------------------------------------- */

/*
 * KVM has no exit for CPUID, so that a guest which is to have them is stepped, an instruction at a time: too slow for
 * a kernel. So the platform has them only for those that ask here, before they make their partition.
 */
EXPORT ShimOfferCpuidExits(void) {
  cpuid_exits_offered = 1;
  return S_OK;
}

/* From now on the platform's local APICs are xAPICs, as on a Windows that has no others. */
EXPORT ShimRefuseX2Apic(void) {
  x2apic_refused = 1;
  return S_OK;
}

#ifndef _WIN32
/* --- the little of kernel32 the backend calls: the .so stands for both libraries -------------------------------------- */

#define KERNEL32 __attribute__((visibility("default")))
static __thread u32 last_error;
KERNEL32 u32 GetLastError(void) { return last_error; }
KERNEL32 u64 GetLargePageMinimum(void) { return 0; }
#define MAX_ALLOCATIONS 256
static struct { u64 at, size; } allocations[MAX_ALLOCATIONS];
KERNEL32 u64 VirtualAlloc(u64 at, u64 size, u32 type, u32 protect) {
  /* memoryapi.h: MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE */
  /* MEM_RESET of what is there. */
  if (at && type == 0x80000 && protect == 4) return call(SYS_madvise, (s64)at, (s64)size, 4, 0, 0, 0) ? 0 : at;
  if (at || type != 0x3000 || protect != 4) return last_error = 87, 0;
  void *memory = map(size, MAP_ANONYMOUS_ | 0x4000, -1);
  if (!memory) last_error = 8;
  lock(&partitions_lock);
  for (int i = 0; memory && i < MAX_ALLOCATIONS; i++) {
    if (allocations[i].at) continue;
    allocations[i].at = (u64)memory, allocations[i].size = size;
    break;
  }
  unlock(&partitions_lock);
  return (u64)memory;
}
KERNEL32 u32 DiscardVirtualMemory(u64 at, u64 size) {
  /* A system error code; MADV_DONTNEED. */
  if ((at | size) % PAGE) return 87;
  return call(SYS_madvise, (s64)at, (s64)size, 4, 0, 0, 0) ? 487 : 0;
}
KERNEL32 int VirtualFree(u64 at, u64 size, u32 type) {
  if (size || type != 0x8000) return last_error = 87, 0;
  for (int i = 0; i < MAX_ALLOCATIONS; i++) {
    if (!at || allocations[i].at != at) continue;
    call(SYS_munmap, (s64)at, (s64)allocations[i].size, 0, 0, 0, 0);
    allocations[i].at = 0;
    return 1;
  }
  return last_error = 487, 0;
}
/* A handle is an eventfd plus one, so that none is zero. */
KERNEL32 u64 CreateEventW(u64 security, int manual, int initial, u64 name) {
  if (security || manual || name) return last_error = 87, 0;
  s64 fd = call(SYS_eventfd2, initial != 0, 02004000, 0, 0, 0, 0);
  return fd < 0 ? 0 : (u64)fd + 1;
}
int SetEvent(HANDLE event) {
  u64 one = 1;
  return call(SYS_write, ADDRESS(event) - 1, ADDRESS(&one), 8, 0, 0, 0) == 8;
}
KERNEL32 u32 WaitForSingleObject(u64 event, u32 milliseconds) {
  struct { int fd; short events, revents; } poll = {.fd = (int)event - 1, .events = 1};
  u64 count;
  call(SYS_poll, ADDRESS(&poll), 1, milliseconds == 0xffffffff ? -1 : (s64)milliseconds, 0, 0, 0);
  return call(SYS_read, (s64)event - 1, ADDRESS(&count), 8, 0, 0, 0) == 8 ? 0 : 0x102;
}
KERNEL32 int CloseHandle(u64 event) { return call(SYS_close, (s64)event - 1, 0, 0, 0, 0, 0) == 0; }
#endif

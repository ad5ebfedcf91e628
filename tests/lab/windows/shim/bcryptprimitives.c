/*
 * Two things deno.exe misses in Wine 8: ProcessPrng, and an honest answer about VirtualAlloc2. Wine exports that one
 * but not the placeholders V8 wants of it; when it is not found, V8 does without.
 */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {
  while (length > 0) {
    ULONG part = length > 0x10000 ? 0x10000 : (ULONG)length;
    if (!SystemFunction036(data, part)) return FALSE;
    data += part;
    length -= part;
  }
  return TRUE;
}

/* Spoils the name in kernelbase's export table, so that GetProcAddress does not find it. */
static void hide(const char *module, const char *name) {
  BYTE *base = (BYTE *)GetModuleHandleA(module);
  if (!base) return;
  IMAGE_NT_HEADERS *headers = (IMAGE_NT_HEADERS *)(base + ((IMAGE_DOS_HEADER *)base)->e_lfanew);
  DWORD at = headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_EXPORT].VirtualAddress;
  if (!at) return;
  IMAGE_EXPORT_DIRECTORY *exports = (IMAGE_EXPORT_DIRECTORY *)(base + at);
  DWORD *names = (DWORD *)(base + exports->AddressOfNames);
  for (DWORD i = 0; i < exports->NumberOfNames; i++) {
    char *found = (char *)(base + names[i]);
    if (lstrcmpA(found, name) != 0) continue;
    DWORD old;
    // The last letter, one lower: the table stays sorted, and nobody asks for this name.
    char *last = found + lstrlenA(found) - 1;
    if (VirtualProtect(last, 1, PAGE_READWRITE, &old)) {
      *last = *last - 1;
      VirtualProtect(last, 1, old, &old);
    }
    return;
  }
}

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, LPVOID reserved) {
  (void)instance, (void)reserved;
  if (reason == DLL_PROCESS_ATTACH) {
    hide("kernelbase.dll", "VirtualAlloc2");
    hide("kernel32.dll", "VirtualAlloc2");
  }
  return TRUE;
}

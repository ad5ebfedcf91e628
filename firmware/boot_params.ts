/** Offsets in `struct boot_params`, the "zero page" (Linux's <asm/bootparam.h>; a test asks the C compiler). */
export const BootParams = {
  ACPI_RSDP_ADDR: 0x070, // u64
  EXT_RAMDISK_IMAGE: 0x0c0, // u32, high half of RAMDISK_IMAGE
  EXT_RAMDISK_SIZE: 0x0c4,
  EXT_CMD_LINE_PTR: 0x0c8,
  E820_ENTRIES: 0x1e8, // u8
  HDR: 0x1f1,
  VID_MODE: 0x1fa, // u16
  BOOT_FLAG: 0x1fe, // u16
  HEADER: 0x202, // u32
  VERSION: 0x206, // u16
  TYPE_OF_LOADER: 0x210, // u8
  LOADFLAGS: 0x211, // u8
  CODE32_START: 0x214,
  RAMDISK_IMAGE: 0x218, // u32
  RAMDISK_SIZE: 0x21c, // u32
  CMD_LINE_PTR: 0x228, // u32
  INITRD_ADDR_MAX: 0x22c,
  KERNEL_ALIGNMENT: 0x230,
  RELOCATABLE_KERNEL: 0x234,
  XLOADFLAGS: 0x236,
  CMDLINE_SIZE: 0x238,
  PAYLOAD_OFFSET: 0x248,
  PAYLOAD_LENGTH: 0x24c,
  SETUP_DATA: 0x250, // u64
  PREF_ADDRESS: 0x258, // u64
  INIT_SIZE: 0x260, // u32
  E820_TABLE: 0x2d0,
  BYTES: 4096,
} as const;

/** Bytes of one e820 entry: address u64, size u64, type u32. */
export const E820_ENTRY_BYTES = 20;
/** E820_MAX_ENTRIES_ZEROPAGE. */
export const E820_MAX_ENTRIES = 128;
/** Type of a `struct setup_data` that seeds the kernel's random numbers. */
export const SETUP_RNG_SEED = 9;
/** Header of a `struct setup_data`: next u64, type u32, len u32. */
export const SETUP_DATA_HEADER_BYTES = 16;

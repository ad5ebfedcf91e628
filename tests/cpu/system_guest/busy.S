/* A kernel that never ends: says "go" on COM1, then does what WORK says. Entered as PVH, in 32-bit protected mode. */
.section .note, "a", @note
.long 4, 4, 18
.asciz "Xen"
.long start

.text
.code32
.globl start
start:
    cli
    mov $stack, %esp
    mov $0x3f8, %edx
    mov $'g', %al
    out %al, %dx
    mov $'o', %al
    out %al, %dx
    mov $'\n', %al
    out %al, %dx
#if WORK == 1
    /* Interrupts off, nothing but a jump. */
1:  jmp 1b
#elif WORK == 2
    /* One instruction over a gibibyte, again and again. */
    cld
1:  mov $0x200000, %esi
    mov $0x200001, %edi
    mov $0x40000000, %ecx
    rep movsb
    jmp 1b
#elif WORK == 3
    /* Page faults whose handler returns to the instruction that faulted. */
    movl $0x83, directory
    mov $directory, %eax
    mov %eax, %cr3
    mov $0x10, %eax
    mov %eax, %cr4
    lgdt gdt_pointer
    mov $fault, %eax
    mov %ax, idt + 14 * 8
    movw $8, idt + 14 * 8 + 2
    movw $0x8e00, idt + 14 * 8 + 4
    shr $16, %eax
    mov %ax, idt + 14 * 8 + 6
    lidt idt_pointer
    mov $0x80000011, %eax
    mov %eax, %cr0
    ljmp $8, $2f
2:  mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov 0xc0000000, %eax
    jmp 2b
fault:
    add $4, %esp
    iret
#elif WORK == 4
    /* Halted for ever. */
1:  hlt
    jmp 1b
#elif WORK == 5
    /* Code that rewrites itself. */
1:  incb 2f + 1
2:  mov $0, %al
    jmp 1b
#endif

.data
.align 8
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer: .word 23
    .long gdt
idt_pointer: .word 0x7ff
    .long idt
.bss
.align 4096
directory: .skip 4096
idt: .skip 4096
.skip 4096
stack: .skip 16
.section .note.GNU-stack, "", @progbits

/* Entry of the system guests: Multiboot, then long mode for the 64-bit one; exception stubs; leaving user mode. */
.section .multiboot, "a"
.align 4
.long 0x1badb002, 0x00000000, -0x1badb002

.text
.code32
.globl start
start:
    cld
    mov $stack_top, %esp
    mov 16(%ebx), %eax
    mov %eax, command_line
#ifdef __x86_64__
    mov $pml4, %edi
    mov $(pdpt + 7), %eax
    mov %eax, (%edi)
    mov $pdpt, %edi
    mov $(pd + 7), %eax
    mov %eax, (%edi)
    mov $pd, %edi
    mov $0x83, %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0x620, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    mov $0x901, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $2f
.code64
2:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %rsp
#else
    mov $0x33, %eax
    mov %eax, %cr0
    mov $0x600, %eax
    mov %eax, %cr4
    lgdt boot_gdt_pointer
    ljmp $8, $2f
2:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
#endif
    call main
    mov $0xf4, %edx
    xor %eax, %eax
    out %al, %dx
3:  hlt
    jmp 3b

/* Stubs: an error code (0 where there is none), the vector, then C. */
#ifdef __x86_64__
#define WORD .quad
#else
#define WORD .long
#endif
.macro stub n
    .align 16
stub_\n:
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17)
    .else
    push $0
    .endif
    push $\n
    jmp common
.endm
.altmacro
.macro stubs n
    stub %n
.endm
.set i, 0
.align 16
.globl stub_table
stub_table:
.rept 256
    stubs %i
    .set i, i + 1
.endr
.globl stub_size
.set stub_size, 16

common:
#ifdef __x86_64__
    push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi
    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
    mov %rsp, %rdi
    cld
    call handle
    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
    pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
    add $16, %rsp
    iretq
#else
    pusha
    mov %esp, %eax
    mov $0x10, %edx
    mov %edx, %ds
    mov %edx, %es
    push %eax
    cld
    call handle
    add $4, %esp
    popa
    add $8, %esp
    iret
#endif

/* int enter(void (*f)(void)): calls f; 0 when it returned, else what recover() gave. */
.globl enter, recover
enter:
#ifdef __x86_64__
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    mov %rsp, saved_stack
    call *%rdi
    xor %eax, %eax
leave:
    mov saved_stack, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret
/* The exception handler returns here. */
recover:
    mov $0x10, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    mov %ecx, %ss
    jmp leave
#else
    mov 4(%esp), %eax
    push %ebx; push %ebp; push %esi; push %edi
    mov %esp, saved_stack
    call *%eax
    xor %eax, %eax
leave:
    mov saved_stack, %esp
    pop %edi; pop %esi; pop %ebp; pop %ebx
    ret
recover:
    mov $0x10, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    mov %ecx, %ss
    xor %ecx, %ecx
    mov %ecx, %fs
    mov %ecx, %gs
    jmp leave
#endif

.data
.align 8
#ifdef __x86_64__
boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
#else
boot_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
#endif
boot_gdt_pointer: .word 23
    WORD boot_gdt
.globl saved_stack, command_line
.align 8
saved_stack: .quad 0
command_line: .quad 0

.bss
.align 4096
.globl pml4, pdpt, pd
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4096
.skip 32768
.globl stack_top
stack_top:
.skip 16
.section .note.GNU-stack, "", @progbits

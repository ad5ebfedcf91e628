# The start of the guest programs of bench/soft.ts. Multiboot enters `start32` (Multiboot specification 0.6.96, 3.1,
# address fields: the image is flat); hv enters `start64` at once, 4096 bytes into the image, in 64-bit mode. With -m32
# everything enters `start32` right behind the header, and the program runs in 32-bit protected mode with 4 MiB pages.
# EDI is the number of the vCPU; each has a stack of its own.
    .section .boot, "ax"
    .code32
    .set FLAGS, 0x10000
    .set BASE, 0x100000
header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
    .long BASE, BASE, 0, 0, start32
start32:
#ifdef __i386__
    movl $0x83, %eax
    movl $0x80000, %edi
    movl $1024, %ecx
    cld
1:  stosl
    addl $0x400000, %eax
    loop 1b
    movl $0x10, %eax
    movl %eax, %cr4
    movl $0x80000, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    xorl %edi, %edi
    .globl start64
start64:
#else
    movl $0x80000, %edi
    xorl %eax, %eax
    movl $0x1000, %ecx
    cld
    rep stosl
    movl $0x81003, 0x80000
    movl $0x82003, 0x81000
    movl $0x00000083, 0x82000
    movl $0x00200083, 0x82008
    movl $0x00400083, 0x82010
    movl $0x20, %eax
    movl %eax, %cr4
    movl $0x80000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    xorl %edi, %edi
    lgdt pointer
    ljmp $8, $start64
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
pointer:
    .word 23
    .long gdt
    .org header + 0x1000
    .code64
    .globl start64
start64:
#endif
    movl %edi, %eax
    shll $14, %eax
    movl $0x70000, %esp
    subl %eax, %esp
#ifdef __i386__
    push %edi
#endif
    call main
    movb $1, %al
    outb %al, $0xf4
1:  hlt
    jmp 1b

/**
 * The instructions whose handlers stand in the interpreter's loop itself: nine tenths of what a booting kernel and its
 * first programs run there. Each is given by an example in 64-bit code; handlers do not depend on register numbers or
 * values. The rest is called through the table, which costs a few nanoseconds more.
 */
const EXAMPLES = [
  "48 89 d8", // mov rax, rbx
  "89 d8",
  "48 8b 03", // mov rax, [rbx]
  "8b 03",
  "48 89 03", // mov [rbx], rax
  "89 03",
  "8a 03",
  "88 03",
  "48 c7 03 00 00 00 00", // mov qword [rbx], 0
  "c7 03 00 00 00 00",
  "c6 03 00",
  "b8 00 00 00 00", // mov eax, 0
  "48 c7 c0 00 00 00 00",
  "0f b6 03", // movzx eax, byte [rbx]
  "0f b6 c3",
  "0f b7 03",
  "48 63 c3", // movsxd rax, ebx
  "48 98", // cdqe
  "48 8d 03", // lea rax, [rbx]
  "50", // push rax
  "58", // pop rax
  "e8 00 00 00 00", // call
  "c3", // ret
  "eb 00", // jmp
  "e9 00 00 00 00",
  "ff e0", // jmp rax
  "ff d0", // call rax
  "ff 13", // call [rbx]
  ...["72", "73", "74", "75", "76", "77", "78", "79", "7c", "7d", "7e", "7f"].map((opcode) => `${opcode} 00`),
  ...["82", "83", "84", "85", "86", "87", "88", "89", "8e", "8f"].map((opcode) => `0f ${opcode} 00 00 00 00`),
  "48 85 c0", // test rax, rax
  "85 c0",
  "84 c0",
  "a8 01", // test al, 1
  "f6 03 01", // test byte [rbx], 1
  "48 39 d8", // cmp rax, rbx
  "39 d8",
  "38 d8",
  "48 3b 03", // cmp rax, [rbx]
  "3b 03",
  "48 39 03", // cmp [rbx], rax
  "39 03",
  "48 83 f8 01", // cmp rax, 1
  "83 f8 01",
  "3c 01",
  "80 3b 01", // cmp byte [rbx], 1
  "83 3b 01",
  "48 83 3b 01",
  "48 3d 00 00 00 00",
  "3d 00 00 00 00",
  "48 01 d8", // add rax, rbx
  "01 d8",
  "48 03 03",
  "48 83 c0 01", // add rax, 1
  "83 c0 01",
  "48 29 d8", // sub rax, rbx
  "29 d8",
  "48 2b 03",
  "48 83 e8 01", // sub rax, 1
  "83 e8 01",
  "48 81 ec 00 00 00 00",
  "31 d8", // xor eax, ebx
  "48 31 d8",
  "48 21 d8", // and rax, rbx
  "21 d8",
  "83 e0 01",
  "48 83 e0 01",
  "25 00 00 00 00",
  "48 09 d8", // or rax, rbx
  "09 d8",
  "83 c8 01",
  "48 c1 e0 01", // shl rax, 1
  "c1 e0 01",
  "48 c1 e8 01", // shr rax, 1
  "c1 e8 01",
  "48 0f 44 c3", // cmovz rax, rbx
  "48 0f 45 c3",
  "0f 94 c0", // sete al
  "0f 95 c0",
  "90", // nop
  "0f 1f 00",
];

/** Code of the examples. */
export function hotExamples(): Uint8Array[] {
  return EXAMPLES.map((text) => new Uint8Array(text.split(" ").map((byte) => parseInt(byte, 16))));
}

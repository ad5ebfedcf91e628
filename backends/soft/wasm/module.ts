/**
 * Wasm modules (WebAssembly core spec 5.5): functions defined here, everything else imported by name from the modules
 * built before. All modules of a vCPU share one memory and one table of functions.
 */
import { isMemory64, isRamSeparate, pointerType } from "./memory.ts";
import { FUNCTION_REFERENCE, pushUnsigned, TYPE_REFERENCE, type ValueType } from "./values.ts";

/** A signature; {@link signature} makes equal ones identical. */
export interface Signature {
  readonly number: number;
  readonly parameters: readonly ValueType[];
  readonly results: readonly ValueType[];
}

const signatures: Signature[] = [];
const signatureByKey = new Map<string, Signature>();

/** The one signature with these types. */
export function signature(parameters: readonly ValueType[], results: readonly ValueType[]): Signature {
  const key = `${parameters}>${results}`;
  let found = signatureByKey.get(key);
  if (!found) {
    found = { number: signatures.length, parameters: [...parameters], results: [...results] };
    signatures.push(found);
    signatureByKey.set(key, found);
  }
  return found;
}

/** A function known by name, wherever it is defined. Pointers stand for i32 or i64, so signatures are resolved late. */
export interface FunctionName {
  readonly number: number;
  readonly name: string;
  readonly parameters: readonly (ValueType | "pointer")[];
  readonly result: ValueType | "pointer" | null;
}

const functions: FunctionName[] = [];
const functionByName = new Map<string, FunctionName>();

/** Declares a function; a second declaration of the name must be equal and gives the first. */
export function declare(
  name: string,
  parameters: readonly (ValueType | "pointer")[],
  result: ValueType | "pointer" | null,
): FunctionName {
  const known = functionByName.get(name);
  if (known) return known;
  const made = { number: functions.length, name, parameters, result };
  functions.push(made);
  functionByName.set(name, made);
  return made;
}

function signatureOf(name: FunctionName): Signature {
  const resolve = (type: ValueType | "pointer") => (type === "pointer" ? pointerType() : type);
  return signature(name.parameters.map(resolve), name.result === null ? [] : [resolve(name.result)]);
}

interface Definition {
  signature: Signature;
  /** Types of locals besides parameters. */
  locals: ValueType[];
  code: number[];
  hints: readonly BranchHint[];
}

/** What is known of a branch: the index of its `if` or `br_if` in the function's code, and whether it is likely taken. */
export interface BranchHint {
  at: number;
  likely: boolean;
}

/** A module under construction. */
export class Module {
  private readonly definitions: Definition[] = [];
  private readonly definedAs = new Map<number, number>();
  private readonly exports: [string, number][] = [];

  /** Adds a function under a declared name and exports it. */
  define(name: FunctionName, locals: ValueType[], code: number[]): void {
    this.definedAs.set(name.number, this.definitions.length);
    this.exports.push([name.name, this.definitions.length]);
    this.definitions.push({ signature: signatureOf(name), locals, code, hints: [] });
  }

  /** Adds a function that only the table will know, exported under `name`; hints in ascending order. */
  defineExport(
    name: string,
    type: Signature,
    locals: ValueType[],
    code: number[],
    hints: readonly BranchHint[] = [],
  ): void {
    this.exports.push([name, this.definitions.length]);
    this.definitions.push({ signature: type, locals, code, hints });
  }

  /**
   * The binary module. It imports `memory`, `ram` where that is separate, `table` and every function it calls but does
   * not define, all from `m`.
   * @param pages of the memory and of separate RAM, in 64 KiB
   */
  build(pages: number, ramPages = 0): Uint8Array<ArrayBuffer> {
    const types: Signature[] = [];
    const typeIndex = new Map<number, number>();
    const useType = (type: Signature): number => {
      let index = typeIndex.get(type.number);
      if (index === undefined) {
        index = types.length;
        types.push(type);
        typeIndex.set(type.number, index);
      }
      return index;
    };
    const imported: FunctionName[] = [];
    const importIndex = new Map<number, number>();
    for (const { code } of this.definitions) {
      for (let i = 0; i < code.length; i++) {
        const element = code[i];
        if (element < FUNCTION_REFERENCE) continue;
        if (element >= TYPE_REFERENCE) {
          useType(signatures[element - TYPE_REFERENCE]);
          continue;
        }
        const number = element - FUNCTION_REFERENCE;
        if (this.definedAs.has(number) || importIndex.has(number)) continue;
        importIndex.set(number, imported.length);
        imported.push(functions[number]);
        useType(signatureOf(functions[number]));
      }
    }
    for (const definition of this.definitions) useType(definition.signature);

    const out: number[] = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
    const section = (id: number, body: number[]) => {
      out.push(id);
      pushUnsigned(out, body.length);
      for (let i = 0; i < body.length; i++) out.push(body[i]);
    };

    const typeSection: number[] = [];
    pushUnsigned(typeSection, types.length);
    for (const type of types) {
      typeSection.push(0x60);
      pushUnsigned(typeSection, type.parameters.length);
      typeSection.push(...type.parameters);
      pushUnsigned(typeSection, type.results.length);
      typeSection.push(...type.results);
    }
    section(1, typeSection);

    const importSection: number[] = [];
    pushUnsigned(importSection, imported.length + (isRamSeparate() ? 3 : 2));
    // Limits with maximum, shared; bit 2 is memory64 (spec 5.3.8 with threads and memory64). The memory never grows: a
    // minimum as large spares constant addresses the check of their bounds.
    const importMemory = (name: string, pages: number) => {
      pushName(importSection, "m");
      pushName(importSection, name);
      importSection.push(2, isMemory64() ? 7 : 3);
      pushUnsigned(importSection, pages);
      pushUnsigned(importSection, pages);
    };
    importMemory("memory", pages);
    if (isRamSeparate()) importMemory("ram", ramPages);
    pushName(importSection, "m");
    pushName(importSection, "table");
    importSection.push(1, 0x70, 0, 0);
    for (const name of imported) {
      pushName(importSection, "m");
      pushName(importSection, name.name);
      importSection.push(0);
      pushUnsigned(importSection, useType(signatureOf(name)));
    }
    section(2, importSection);

    const functionSection: number[] = [];
    pushUnsigned(functionSection, this.definitions.length);
    for (const definition of this.definitions) pushUnsigned(functionSection, useType(definition.signature));
    section(3, functionSection);

    const exportSection: number[] = [];
    pushUnsigned(exportSection, this.exports.length);
    for (const [name, index] of this.exports) {
      pushName(exportSection, name);
      exportSection.push(0);
      pushUnsigned(exportSection, imported.length + index);
    }
    section(7, exportSection);

    const codeSection: number[] = [];
    const hinted: number[] = [];
    let hintedFunctions = 0;
    pushUnsigned(codeSection, this.definitions.length);
    for (const [number, { locals, code, hints }] of this.definitions.entries()) {
      if (hints.length > 0) {
        hintedFunctions++;
        pushUnsigned(hinted, imported.length + number);
        pushUnsigned(hinted, hints.length);
      }
      let nextHint = 0;
      const body: number[] = [];
      const runs: [number, ValueType][] = [];
      for (const type of locals) {
        const last = runs[runs.length - 1];
        if (last && last[1] === type) last[0]++;
        else runs.push([1, type]);
      }
      pushUnsigned(body, runs.length);
      for (const [count, type] of runs) {
        pushUnsigned(body, count);
        body.push(type);
      }
      for (let i = 0; i < code.length; i++) {
        const element = code[i];
        if (nextHint < hints.length && hints[nextHint].at === i) {
          pushUnsigned(hinted, body.length);
          hinted.push(1, hints[nextHint++].likely ? 1 : 0);
        }
        if (element < FUNCTION_REFERENCE) body.push(element);
        else if (element >= TYPE_REFERENCE) {
          pushUnsigned(body, typeIndex.get(signatures[element - TYPE_REFERENCE].number)!);
        } else {
          const number = element - FUNCTION_REFERENCE;
          const own = this.definedAs.get(number);
          pushUnsigned(body, own === undefined ? importIndex.get(number)! : imported.length + own);
        }
      }
      pushUnsigned(codeSection, body.length);
      for (let i = 0; i < body.length; i++) codeSection.push(body[i]);
    }
    // Branch hints (WebAssembly code metadata, "metadata.code.branch_hint"): offsets from the start of a body.
    if (hintedFunctions > 0) {
      const custom: number[] = [];
      pushName(custom, "metadata.code.branch_hint");
      pushUnsigned(custom, hintedFunctions);
      for (const byte of hinted) custom.push(byte);
      section(0, custom);
    }
    section(10, codeSection);
    return new Uint8Array(out);
  }
}

function pushName(out: number[], name: string): void {
  const bytes = new TextEncoder().encode(name);
  pushUnsigned(out, bytes.length);
  out.push(...bytes);
}

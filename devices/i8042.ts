/**
 * The 8042 keyboard controller of a PC without a keyboard: it answers its own commands and resets the machine (IBM
 * PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller).
 */
import type { BusDevice, MachineEvents } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

const COMMAND_BYTE = FIRST_WORD;
const OUTPUT = FIRST_WORD + 1; // the byte to be read at port 60h; -1: none
const EXPECTS = FIRST_WORD + 2; // the command whose data byte comes next at port 60h; 0: none
const LAST_WAS_COMMAND = FIRST_WORD + 3;

const STATUS_OUTPUT_FULL = 0x01;
const STATUS_SYSTEM = 0x04;
const STATUS_COMMAND = 0x08;
const STATUS_NOT_LOCKED = 0x10;

/** Bit 5 is the auxiliary port's disable: there is none, so it stays set. */
const AUX_DISABLED = 0x20;
const KEYBOARD_DISABLED = 0x10;
const OUTPUT_PORT_RESET = 0x01; // active low

/** Ports 60h ({@link I8042.data}) and 64h ({@link I8042.command}). */
export class I8042 {
  static readonly WORDS = 4;

  readonly registers: Registers;
  readonly data: BusDevice;
  readonly command: BusDevice;
  private readonly words: Int32Array;
  private readonly events: MachineEvents;

  constructor(registers: Registers, events: MachineEvents) {
    this.registers = registers;
    this.words = registers.words;
    this.events = events;
    this.data = {
      registers,
      read: () => this.readData(),
      write: (_offset, _size, value) => this.writeData(value & 0xff),
    };
    this.command = {
      registers,
      read: () => this.readStatus(),
      write: (_offset, _size, value) => this.writeCommand(value & 0xff),
    };
  }

  reset(): void {
    this.words[COMMAND_BYTE] = STATUS_SYSTEM | KEYBOARD_DISABLED | AUX_DISABLED;
    this.words[OUTPUT] = -1;
    this.words[EXPECTS] = 0;
    this.words[LAST_WAS_COMMAND] = 0;
  }

  private readData(): number {
    const byte = this.words[OUTPUT];
    this.words[OUTPUT] = -1;
    return byte < 0 ? 0 : byte;
  }

  private readStatus(): number {
    const words = this.words;
    return STATUS_NOT_LOCKED | (words[COMMAND_BYTE] & STATUS_SYSTEM) | (words[OUTPUT] >= 0 ? STATUS_OUTPUT_FULL : 0) |
      (words[LAST_WAS_COMMAND] !== 0 ? STATUS_COMMAND : 0);
  }

  private writeData(byte: number): void {
    const words = this.words;
    const command = words[EXPECTS];
    words[EXPECTS] = 0;
    words[LAST_WAS_COMMAND] = 0;
    if (command === 0x60) words[COMMAND_BYTE] = (byte & 0x7f) | AUX_DISABLED;
    else if (command === 0xd1 && (byte & OUTPUT_PORT_RESET) === 0) this.events.reset();
    else if (command === 0xd2) words[OUTPUT] = byte;
    // Anything else was for a keyboard or mouse that is not there: no answer comes.
  }

  private writeCommand(command: number): void {
    const words = this.words;
    words[LAST_WAS_COMMAND] = 1;
    words[EXPECTS] = 0;
    switch (command) {
      case 0x20:
        words[OUTPUT] = words[COMMAND_BYTE];
        break;
      case 0x60: // write the command byte
      case 0xd1: // write the output port
      case 0xd2: // write the output buffer
      case 0xd3: // write the auxiliary output buffer: swallowed
      case 0xd4: // to the auxiliary device: swallowed
        words[EXPECTS] = command;
        break;
      case 0xa9: // auxiliary interface test: clock line stuck low
        words[OUTPUT] = 0x01;
        break;
      case 0xaa: // self-test passed
        words[OUTPUT] = 0x55;
        words[COMMAND_BYTE] |= STATUS_SYSTEM;
        break;
      case 0xab: // keyboard interface test: no error
        words[OUTPUT] = 0x00;
        break;
      case 0xad:
        words[COMMAND_BYTE] |= KEYBOARD_DISABLED;
        break;
      case 0xae:
        words[COMMAND_BYTE] &= ~KEYBOARD_DISABLED;
        break;
      case 0xc0: // input port: not locked
        words[OUTPUT] = 0x80;
        break;
      case 0xd0: // output port: A20 on, no reset
        words[OUTPUT] = 0x03;
        break;
      default:
        // F0h to FFh pulse output port bits that are 0 in the command; bit 0 is the reset line.
        if (command >= 0xf0 && (command & OUTPUT_PORT_RESET) === 0) this.events.reset();
    }
  }
}

/** A 16550A UART between the guest and two byte rings (National Semiconductor PC16550D data sheet). No baud rate: bytes
 * leave at once while the output ring has room. */
import type { ByteRing } from "../core/byte_ring.ts";
import type { BusDevice, InterruptLine } from "../core/device.ts";
import { FIRST_WORD, type Registers } from "../core/registers.ts";

const FIFO_SIZE = 16;

const IER = FIRST_WORD;
const LCR = FIRST_WORD + 1;
const MCR = FIRST_WORD + 2;
const MSR = FIRST_WORD + 3;
const SCR = FIRST_WORD + 4;
const DLL = FIRST_WORD + 5;
const DLM = FIRST_WORD + 6;
const FCR = FIRST_WORD + 7;
const OVERRUN = FIRST_WORD + 8; // LSR's bit 1, until read
const THR_EMPTY_INTERRUPT = FIRST_WORD + 9; // until IIR is read or THR written
const LINE_LEVEL = FIRST_WORD + 10;
const RX_HEAD = FIRST_WORD + 11;
const RX_COUNT = FIRST_WORD + 12;
const TX_COUNT = FIRST_WORD + 13;
const UNPLUGGED = FIRST_WORD + 14; // the terminal is at another device
const RX = FIRST_WORD + 15;
const TX = RX + FIFO_SIZE;

// 8.6.1 and following: the registers' bits.
const IER_RECEIVED = 1;
const IER_THR_EMPTY = 2;
const IER_LINE_STATUS = 4;
const IER_MODEM_STATUS = 8;
const IIR_NONE = 0x01;
const IIR_MODEM_STATUS = 0x00;
const IIR_THR_EMPTY = 0x02;
const IIR_RECEIVED = 0x04;
const IIR_LINE_STATUS = 0x06;
const IIR_TIMEOUT = 0x0c;
const IIR_FIFOS = 0xc0;
const FCR_ENABLE = 1;
const FCR_CLEAR_RX = 2;
const FCR_CLEAR_TX = 4;
const LCR_DLAB = 0x80;
const MCR_DTR = 1;
const MCR_RTS = 2;
const MCR_OUT1 = 4;
const MCR_OUT2 = 8;
const MCR_LOOP = 0x10;
const LSR_DATA_READY = 1;
const LSR_OVERRUN = 2;
const LSR_THR_EMPTY = 0x20;
const LSR_TRANSMITTER_EMPTY = 0x40;
const MSR_DCTS = 1;
const MSR_DDSR = 2;
const MSR_TERI = 4;
const MSR_DDCD = 8;
const MSR_CTS = 0x10;
const MSR_DSR = 0x20;
const MSR_RI = 0x40;
const MSR_DCD = 0x80;
/** A terminal is always there: clear to send, data set ready, carrier. */
const MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD;

/** One serial port: eight ports. */
export class Uart16550 implements BusDevice {
  static readonly WORDS = TX + FIFO_SIZE - FIRST_WORD;

  readonly registers: Registers;
  private readonly words: Int32Array;
  private readonly line: InterruptLine;
  private readonly input: ByteRing;
  private readonly output: ByteRing;

  /**
   * @param line its interrupt; MCR's OUT2 gates it, as on a PC's board
   * @param input bytes for the guest; this device is the ring's reader
   * @param output bytes from the guest
   */
  constructor(registers: Registers, line: InterruptLine, input: ByteRing, output: ByteRing) {
    this.registers = registers;
    this.words = registers.words;
    this.line = line;
    this.input = input;
    this.output = output;
  }

  /** Table II of the data sheet, master reset. */
  reset(): void {
    this.words.fill(0, FIRST_WORD);
    this.words[MSR] = MSR_CONNECTED;
    this.words[DLL] = 12; // 9600 baud, as a PC's firmware leaves it
  }

  /** With nobody at the other end what is sent is lost, and nothing is received. With the lock held. */
  plug(plugged: boolean): void {
    this.words[UNPLUGGED] = plugged ? 0 : 1;
    this.transmit();
    this.receive();
  }

  /** Takes bytes from the input ring as far as the FIFO has room. Call it with the lock held. */
  receive(): void {
    if ((this.words[MCR] & MCR_LOOP) === 0) this.fill();
    this.updateLine();
  }

  /** Sends what waited for room in the output ring. Call it with the lock held, after the ring was read. */
  drained(): void {
    this.transmit();
    this.updateLine();
  }

  read(offset: number, _size: number): number {
    const words = this.words;
    switch (offset & 7) {
      case 0:
        return (words[LCR] & LCR_DLAB) !== 0 ? words[DLL] : this.readReceived();
      case 1:
        return (words[LCR] & LCR_DLAB) !== 0 ? words[DLM] : words[IER];
      case 2:
        return this.readIdentification();
      case 3:
        return words[LCR];
      case 4:
        return words[MCR];
      case 5:
        return this.readLineStatus();
      case 6:
        return this.readModemStatus();
      default:
        return words[SCR];
    }
  }

  write(offset: number, _size: number, value: number): void {
    const words = this.words;
    const byte = value & 0xff;
    switch (offset & 7) {
      case 0:
        if ((words[LCR] & LCR_DLAB) === 0) this.writeTransmit(byte);
        else words[DLL] = byte;
        return;
      case 1:
        if ((words[LCR] & LCR_DLAB) !== 0) words[DLM] = byte;
        else this.writeInterruptEnable(byte & 0x0f);
        return;
      case 2:
        this.writeFifoControl(byte);
        return;
      case 3:
        words[LCR] = byte;
        return;
      case 4:
        this.writeModemControl(byte & 0x1f);
        return;
      case 7:
        words[SCR] = byte;
        return;
        // LSR and MSR: "intended for read operations only".
    }
  }

  // --- Transmitter -------------------------------------------------------------------------------------------------

  private writeTransmit(byte: number): void {
    const words = this.words;
    if ((words[MCR] & MCR_LOOP) !== 0) {
      this.receiveByte(byte);
      words[THR_EMPTY_INTERRUPT] = 1;
      this.updateLine();
      return;
    }
    if (words[TX_COUNT] === 0 && this.put(byte)) {
      // Most writes of a boot: nobody waits for the interrupt, or it is raised already.
      if (words[THR_EMPTY_INTERRUPT] !== 0) return;
      words[THR_EMPTY_INTERRUPT] = 1;
      if ((words[IER] & IER_THR_EMPTY) !== 0) this.updateLine();
      return;
    }
    words[THR_EMPTY_INTERRUPT] = 0;
    const room = (words[FCR] & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1;
    // A guest that writes without looking at LSR's THRE loses the byte, as on the chip.
    if (words[TX_COUNT] < room) words[TX + words[TX_COUNT]++] = byte;
    this.transmit();
    this.updateLine();
  }

  private put(byte: number): boolean {
    return this.words[UNPLUGGED] !== 0 || this.output.push(byte);
  }

  /** Moves held bytes to the output ring; THR is empty when all have gone. */
  private transmit(): void {
    const words = this.words;
    const count = words[TX_COUNT];
    if (count === 0) return;
    let sent = 0;
    while (sent < count && this.put(words[TX + sent])) sent++;
    words.copyWithin(TX, TX + sent, TX + count);
    words[TX_COUNT] = count - sent;
    if (sent === count) words[THR_EMPTY_INTERRUPT] = 1;
  }

  // --- Receiver ----------------------------------------------------------------------------------------------------

  private fill(): void {
    const words = this.words;
    if (words[UNPLUGGED] !== 0) return;
    const room = (words[FCR] & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1;
    while (words[RX_COUNT] < room) {
      const byte = this.input.shift();
      if (byte < 0) return;
      this.receiveByte(byte);
    }
  }

  private receiveByte(byte: number): void {
    const words = this.words;
    const room = (words[FCR] & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1;
    if (words[RX_COUNT] === room) {
      words[OVERRUN] = LSR_OVERRUN;
      // Without FIFOs the new character replaces the old (8.6.2, bit 1).
      if (room === 1) words[RX + words[RX_HEAD]] = byte;
      return;
    }
    words[RX + ((words[RX_HEAD] + words[RX_COUNT]) & (FIFO_SIZE - 1))] = byte;
    words[RX_COUNT]++;
  }

  private readReceived(): number {
    const words = this.words;
    if (words[RX_COUNT] === 0) return 0;
    const byte = words[RX + words[RX_HEAD]];
    words[RX_HEAD] = (words[RX_HEAD] + 1) & (FIFO_SIZE - 1);
    words[RX_COUNT]--;
    if (words[RX_COUNT] === 0 && (words[MCR] & MCR_LOOP) === 0) this.fill();
    this.updateLine();
    return byte;
  }

  // --- Interrupts --------------------------------------------------------------------------------------------------

  /** IIR bits 3-0: the highest pending interrupt (table IV). */
  private pending(): number {
    const words = this.words;
    const enabled = words[IER];
    if ((enabled & IER_LINE_STATUS) !== 0 && words[OVERRUN] !== 0) return IIR_LINE_STATUS;
    if ((enabled & IER_RECEIVED) !== 0 && words[RX_COUNT] !== 0) {
      if ((words[FCR] & FCR_ENABLE) === 0 || words[RX_COUNT] >= this.trigger()) return IIR_RECEIVED;
      return IIR_TIMEOUT; // no more is coming, so the four character times count as over
    }
    if ((enabled & IER_THR_EMPTY) !== 0 && words[THR_EMPTY_INTERRUPT] !== 0) return IIR_THR_EMPTY;
    if ((enabled & IER_MODEM_STATUS) !== 0 && (words[MSR] & 0x0f) !== 0) return IIR_MODEM_STATUS;
    return IIR_NONE;
  }

  /** FCR bits 7 and 6: 1, 4, 8 or 14 bytes. */
  private trigger(): number {
    const level = this.words[FCR] >> 6;
    return level === 0 ? 1 : level === 1 ? 4 : level === 2 ? 8 : 14;
  }

  private updateLine(): void {
    const words = this.words;
    // In loopback the OUT2 pin is inactive (8.6.6, bit 4), and with it the board's gate.
    const gate = (words[MCR] & (MCR_OUT2 | MCR_LOOP)) === MCR_OUT2;
    const level = gate && this.pending() !== IIR_NONE ? 1 : 0;
    if (level === words[LINE_LEVEL]) return;
    words[LINE_LEVEL] = level;
    this.line.set(level);
  }

  private readIdentification(): number {
    const words = this.words;
    const pending = this.pending();
    if (pending === IIR_THR_EMPTY) {
      words[THR_EMPTY_INTERRUPT] = 0;
      this.updateLine();
    }
    return pending | ((words[FCR] & FCR_ENABLE) !== 0 ? IIR_FIFOS : 0);
  }

  private writeInterruptEnable(value: number): void {
    const words = this.words;
    const newlyThrEmpty = (value & ~words[IER] & IER_THR_EMPTY) !== 0;
    words[IER] = value;
    // Enabling the interrupt while THR is empty raises it at once, every time (Linux's THRE test asks for that).
    if (newlyThrEmpty && words[TX_COUNT] === 0) words[THR_EMPTY_INTERRUPT] = 1;
    this.updateLine();
  }

  private writeFifoControl(value: number): void {
    const words = this.words;
    // "Resetting FCR0 clears all bytes in both FIFOs", and so does setting it.
    const toggled = ((value ^ words[FCR]) & FCR_ENABLE) !== 0;
    if (toggled || (value & FCR_CLEAR_RX) !== 0) {
      words[RX_COUNT] = 0;
      words[RX_HEAD] = 0;
    }
    if ((toggled || (value & FCR_CLEAR_TX) !== 0) && words[TX_COUNT] !== 0) {
      words[TX_COUNT] = 0;
      words[THR_EMPTY_INTERRUPT] = 1;
    }
    // The other bits can be written only together with bit 0.
    words[FCR] = (value & FCR_ENABLE) !== 0 ? value & 0xc9 : 0;
    if ((words[MCR] & MCR_LOOP) === 0) this.fill();
    this.updateLine();
  }

  // --- Status and modem lines --------------------------------------------------------------------------------------

  private readLineStatus(): number {
    const words = this.words;
    if (words[TX_COUNT] !== 0) this.drained();
    if (words[RX_COUNT] === 0 && (words[MCR] & MCR_LOOP) === 0 && this.input.length !== 0) this.receive();
    const status = (words[RX_COUNT] !== 0 ? LSR_DATA_READY : 0) | words[OVERRUN] |
      (words[TX_COUNT] === 0 ? LSR_THR_EMPTY | LSR_TRANSMITTER_EMPTY : 0);
    if (words[OVERRUN] !== 0) {
      words[OVERRUN] = 0;
      this.updateLine();
    }
    return status;
  }

  private readModemStatus(): number {
    const words = this.words;
    const status = words[MSR];
    if ((status & 0x0f) !== 0) {
      words[MSR] = status & 0xf0;
      this.updateLine();
    }
    return status;
  }

  private writeModemControl(value: number): void {
    const words = this.words;
    const old = words[MCR];
    words[MCR] = value;
    // 8.6.6: loopback connects the four outputs to the four inputs.
    const lines = (value & MCR_LOOP) === 0
      ? MSR_CONNECTED
      : ((value & MCR_RTS) !== 0 ? MSR_CTS : 0) | ((value & MCR_DTR) !== 0 ? MSR_DSR : 0) |
        ((value & MCR_OUT1) !== 0 ? MSR_RI : 0) | ((value & MCR_OUT2) !== 0 ? MSR_DCD : 0);
    const status = words[MSR];
    const changed = status ^ lines;
    words[MSR] = lines | (status & 0x0f) | ((changed & MSR_CTS) !== 0 ? MSR_DCTS : 0) |
      ((changed & MSR_DSR) !== 0 ? MSR_DDSR : 0) | ((status & ~lines & MSR_RI) !== 0 ? MSR_TERI : 0) |
      ((changed & MSR_DCD) !== 0 ? MSR_DDCD : 0);
    if ((old & ~value & MCR_LOOP) !== 0) this.fill();
    this.updateLine();
  }
}

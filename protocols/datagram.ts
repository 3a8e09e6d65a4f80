// Datagrams: pulses and probes over UDP, sealed with keys that two APs gave each other over a stream. How one looks, and
// which ones count; nothing of sockets and addresses. A key seals in one direction alone, so that a counter makes a nonce.
import nacl from 'tweetnacl'
import { z } from 'zod'
import { concat } from './bytes.js'
import { byteString } from './codec.js'
import { MAX_DATAGRAM } from './limits.js'
import { probeReply, probeRequest, pulse } from './wire.js'

/** What an AP gives another one, to be reached by: its UDP port, and an id and a key for what is sent there. */
export const reachCard = z.object({
  port: z.int().min(1).max(65535),
  id: z.int().min(0).max(0xffffffff),
  key: byteString(nacl.secretbox.keyLength),
})
export type ReachCard = z.infer<typeof reachCard>

/** `heard` says that a pulse came by datagram. The number of an `ask` comes back in its `answer`. */
export const datagramMessage = z.union([
  z.tuple([z.literal('pulse'), pulse]),
  z.tuple([z.literal('heard')]),
  z.tuple([z.literal('ask'), z.int().min(0), probeRequest]),
  z.tuple([z.literal('answer'), z.int().min(0), probeReply]),
])
export type DatagramMessage = z.infer<typeof datagramMessage>

const ID_BYTES = 4
const COUNTER_BYTES = 6
const HEAD = ID_BYTES + COUNTER_BYTES
const MIN_DATAGRAM = HEAD + nacl.secretbox.overheadLength

/** The id of the key with which bytes from anywhere say that they are sealed; undefined where they cannot be a datagram. */
export const keyIdOf = (bytes: Uint8Array): number | undefined =>
  bytes.length > MIN_DATAGRAM && bytes.length <= MAX_DATAGRAM ? view(bytes).getUint32(0) : undefined

/** Never twice with one key and counter. */
export function sealDatagram(id: number, key: Uint8Array, counter: number, message: Uint8Array): Uint8Array {
  const head = new Uint8Array(HEAD)
  view(head).setUint32(0, id)
  view(head).setUint16(ID_BYTES, Math.floor(counter / 2 ** 32))
  view(head).setUint32(ID_BYTES + 2, counter >>> 0)
  return concat(head, nacl.secretbox(message, nonceOf(head), key))
}

/**
 * The message in a datagram, the first time that it comes.
 * @param bytes what `keyIdOf` named the key of
 * @returns undefined for a forgery or a replay; `isLatest` where none with a higher counter has come before
 */
export function openDatagram(
  key: Uint8Array,
  window: ReplayWindow,
  bytes: Uint8Array,
): { message: Uint8Array; isLatest: boolean } | undefined {
  const counter = view(bytes).getUint16(ID_BYTES) * 2 ** 32 + view(bytes).getUint32(ID_BYTES + 2)
  if (!window.isNew(counter)) return undefined // before it costs anything
  const message = nacl.secretbox.open(bytes.subarray(HEAD), nonceOf(bytes), key)
  if (message === null) return undefined
  const isLatest = counter > window.highest
  window.add(counter)
  return { message, isLatest }
}

const WINDOW = 64

/** The counters of one key that have come: late ones count once, those that are more than a window behind never. */
export class ReplayWindow {
  highest = -1
  /** Bit i is set where `highest - i` has come. */
  private seen = 0n

  isNew(counter: number): boolean {
    const behind = this.highest - counter
    return behind < 0 || (behind < WINDOW && (this.seen & (1n << BigInt(behind))) === 0n)
  }

  /** Only for counters that are new and proven to be the sender's, or anyone could move the window away. */
  add(counter: number): void {
    const ahead = counter - this.highest
    if (ahead <= 0) this.seen |= 1n << BigInt(-ahead)
    else {
      this.seen = ahead < WINDOW ? BigInt.asUintN(WINDOW, (this.seen << BigInt(ahead)) | 1n) : 1n
      this.highest = counter
    }
  }
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

function nonceOf(head: Uint8Array): Uint8Array {
  const nonce = new Uint8Array(nacl.secretbox.nonceLength)
  nonce.set(head.subarray(ID_BYTES, HEAD))
  return nonce
}

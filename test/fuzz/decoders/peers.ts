// What other APs and strangers send: records, messages, datagrams, tickets, streams.
import type { Stream } from '@libp2p/interface'
import * as cborg from 'cborg'
import type { z } from 'zod'
import { Frames } from '../../../node/mesh/frames.js'
import {
  apId,
  apKey,
  concat,
  equalBytes,
  fromBase32,
  hex,
  sha256,
  toBase32,
  unhex,
  utf8,
} from '../../../protocols/bytes.js'
import { ChunkSet, chunksOf, Leaves, leafOf, rootOf, spanOf } from '../../../protocols/chunks.js'
import { decode, encode } from '../../../protocols/codec.js'
import {
  datagramMessage,
  keyIdOf,
  openDatagram,
  ReplayWindow,
  reachCard,
  sealDatagram,
} from '../../../protocols/datagram.js'
import { FORMAT, open, readBack, type SignedRecord } from '../../../protocols/envelope.js'
import { MeshError } from '../../../protocols/error.js'
import { checkKind, type Kind } from '../../../protocols/kinds.js'
import * as limits from '../../../protocols/limits.js'
import { readTicket, writeTicket } from '../../../protocols/ticket.js'
import * as wire from '../../../protocols/wire.js'
import { AP, CLOCK, GOOD, INSTANCE, TICKET } from '../../protocols/samples.js'
import { MESH, NOW, OWNER, record, sealRaw, seedOf } from '../../protocols/support.js'
import { type Decoder, key, must, records, text } from './decoder.js'

const payloadOf = (record: SignedRecord): Uint8Array => (decode(record.bytes) as [Uint8Array])[0]

export const cbor: Decoder = {
  name: 'cbor',
  form: 'cbor',
  limit: limits.MAX_SYNC_FRAME,
  seeds: [...records.map(payloadOf), encode([1, -1, 2 ** 40, 1.5, 'é', true, null, { a: [{}] }, new Uint8Array(300)])],
  reads: ['protocols/codec.js'],
  decode: (input) => must(equalBytes(encode(decode(input)), input), 'is not written as it was read'),
}

export const envelope: Decoder = {
  name: 'envelope',
  form: 'cbor',
  limit: limits.MAX_RECORD + 1,
  seeds: records.map(({ bytes }) => bytes),
  reads: ['protocols/envelope.js'],
  decode: (input) => must(open(input, MESH).bytes === input, 'other bytes than came'),
}

/** What a payload says, where it says anything, signed as it says. */
function signed(payload: Uint8Array): Uint8Array {
  let kind: unknown
  try {
    kind = (cborg.decode(payload) as unknown[])[1]
  } catch {}
  return sealRaw(AP, typeof kind === 'string' ? kind : '', MESH, payload)
}

/** Mutants behind a signature that fits them. */
export const payload: Decoder = {
  name: 'payload',
  form: 'cbor',
  limit: limits.MAX_RECORD - 100,
  seeds: records.map(({ kind, subject, body }) => encode([FORMAT, kind, MESH, AP.publicKey, CLOCK, subject, body])),
  reads: ['protocols/envelope.js'],
  quick: 150,
  decode: (input) => {
    const opened = open(signed(input), MESH)
    must(equalBytes(opened.hash, sha256(input)), 'another hash')
    must(readBack(opened.bytes, opened.hash).kind === opened.kind, 'is not read back as it was opened')
    checkKind(opened)
  },
}

/** What is in a record, as `open` hands it on. */
export const kinds = (Object.keys(GOOD) as Kind[]).map((kind): Decoder => {
  const { by, subject, body } = GOOD[kind]
  return {
    name: `kind-${kind}`,
    form: 'cbor',
    limit: limits.MAX_RECORD,
    seeds: [encode([by.publicKey, CLOCK, subject, body])],
    reads: ['protocols/kinds.js', 'protocols/chute.js', 'protocols/deployment.js'],
    decode: (input) => {
      const parts = decode(input)
      if (!Array.isArray(parts)) return
      const [signer, clock, subject, body] = parts as [Uint8Array, [number, number], Uint8Array, object]
      const bytes = encode([encode([FORMAT, kind, MESH, signer, clock, subject, body]), new Uint8Array(64)])
      let record: SignedRecord
      try {
        open(bytes, MESH)
        return
      } catch (error) {
        // All but the signature is right.
        if (!(error instanceof MeshError) || error.code !== 'bad-signature') throw error
        record = { bytes, hash: key(1), format: FORMAT, kind, mesh: MESH, signer, clock, subject, body }
      }
      checkKind(record)
    },
  }
})

const pulse: wire.Pulse = { boot: 1, sequence: 2, ledger: new Uint8Array(16) }
export const bytes = records[0]!.bytes
const ranges = [
  ['digests', 'a', new Uint8Array(256)],
  ['hashes', '', new Uint8Array(64)],
]
const FRAMES: Record<string, [schema: z.ZodType, limit: number, ...seeds: unknown[]]> = {
  'join-request': [wire.joinRequest, limits.MAX_JOIN_FRAME, ['join', bytes, bytes]],
  'join-reply': [wire.joinReply, limits.MAX_JOIN_FRAME, ['welcome', NOW], ['refused', 'no']],
  'ask-request': [
    wire.askRequest,
    limits.MAX_ASK_FRAME,
    ...[['look'], ['ask', key(1), 'shop', { site: 'a', floor: '2' }], ['poll']],
  ],
  'ask-looked': [wire.lookReply, limits.MAX_ASK_FRAME, ['mesh', key(1), 'hall']],
  'ask-asked': [wire.askedReply, limits.MAX_ASK_FRAME, ['asked', key(1)], ['refused', 'no']],
  'ask-reveal': [wire.askReveal, limits.MAX_ASK_FRAME, ['reveal', key(1)]],
  'ask-polled': [
    wire.pollReply,
    limits.MAX_ASK_FRAME,
    ...[['waiting'], ['unknown'], ['let-in', bytes, { ticket: key(1), at: [5, 0], signature: new Uint8Array(64) }]],
  ],
  pulse: [wire.pulse, limits.MAX_SMALL_FRAME, pulse, { ...pulse, away: 5 }],
  'probe-request': [wire.probeRequest, limits.MAX_SMALL_FRAME, {}, { ap: key(1) }],
  'probe-reply': [wire.probeReply, limits.MAX_SMALL_FRAME, { boot: 1, sequence: 2, reached: true }],
  reach: [reachCard, limits.MAX_SMALL_FRAME, { port: 4010, id: 7, key: key(1) }],
  datagram: [
    datagramMessage,
    limits.MAX_DATAGRAM,
    ['pulse', pulse],
    ['heard'],
    ['ask', 1, {}],
    ['answer', 1, { boot: 1, sequence: 2, reached: true }],
  ],
  'beacon-request': [wire.beaconRequest, limits.MAX_JOIN_FRAME, {}],
  'beacon-reply': [wire.beaconReply, limits.MAX_JOIN_FRAME, {}, { beacon: bytes }],
  'lease-request': [wire.leaseRequest, limits.MAX_LEASE_FRAME, { asks: [[INSTANCE, 1, 2]], releases: [[INSTANCE, 1]] }],
  'lease-reply': [wire.leaseReply, limits.MAX_LEASE_FRAME, [['granted'], ['held', 1, 500]]],
  sync: [
    wire.syncFrame,
    limits.MAX_SYNC_FRAME,
    ...[
      ['hello', new Uint8Array(16), 3, [[key(1), 1, 2]]],
      ['ranges', ranges],
      ['want', new Uint8Array(64)],
    ],
    ...[['records', [bytes]], ['beacons', [bytes, bytes]], ['end']],
  ],
  'blob-opening': [wire.blobOpening, limits.MAX_SMALL_FRAME, { blob: key(1) }],
  'blob-opened': [
    wire.blobOpened,
    limits.MAX_CHUNK,
    ['open', { has: new Uint8Array(5), given: new Uint8Array(5), others: [key(1), key(2)] }],
    ['open', { others: [] }],
    ['refused', 'no'],
  ],
  'blob-request': [wire.blobRequest, limits.MAX_SMALL_FRAME, ['leaves', 0], ['chunk', 700], ['first', 7], ['news']],
  'blob-reply': [
    wire.blobReply,
    limits.MAX_CHUNK,
    ...[
      ['chunk', 7],
      ['chunk', 7, { has: new Uint8Array(5), others: [] }],
      ['given', 7, { others: [] }],
      ['news', { others: [key(1)] }],
      ['gone'],
    ],
  ],
}
export const frames = Object.entries(FRAMES).map(
  ([name, [schema, limit, ...seeds]]): Decoder => ({
    name: `frame-${name}`,
    form: 'cbor',
    limit,
    seeds: seeds.map(encode),
    reads: ['protocols/wire.js'],
    decode: (input) => {
      const frame = wire.readFrame(schema, input)
      // A field that nobody knows is left out; one that is known comes out as it went in.
      const again = encode(frame)
      must(
        again.length <= input.length && equalBytes(encode(wire.readFrame(schema, again)), again),
        'is read otherwise the second time',
      )
      if (name !== 'sync') return
      const [word, what] = frame as wire.SyncFrame
      if (word === 'ranges') for (const range of what) wire.writeRange(wire.readRange(range))
      if (word === 'want') wire.splitHashes(what)
    },
  }),
)

/** Datagrams, whose first byte says whether they are to be sealed with the right key. */
export const datagram: Decoder = {
  name: 'datagram',
  form: 'bytes',
  limit: limits.MAX_DATAGRAM + 20,
  seeds: [
    concat(Uint8Array.of(1), encode(['pulse', pulse])),
    concat(Uint8Array.of(0), sealDatagram(7, key(1), 5, encode(['heard']))),
  ],
  reads: ['protocols/datagram.js'],
  decode: (input) => {
    const [isSealed, rest] = [input[0], input.subarray(1)]
    const sealed = isSealed === 1 ? sealDatagram(7, key(1), 2 ** 40 + rest.length, rest) : rest
    if (keyIdOf(sealed) === undefined) return
    const window = new ReplayWindow()
    const opened = openDatagram(key(1), window, sealed)
    must((opened !== undefined) === (isSealed === 1) || isSealed !== 1, 'what was sealed does not open')
    if (opened === undefined) return
    must(openDatagram(key(1), window, sealed) === undefined, 'opens twice')
    wire.readFrame(datagramMessage, opened.message)
  },
}

const grant = record(OWNER, 'grant', TICKET.publicKey, CLOCK, { role: 'ap', uses: 1, expires: 0 })
export const addresses = ['/ip4/10.0.0.1/tcp/4010/p2p/12D3KooW']
const ticketText = writeTicket({ meshKey: OWNER.publicKey, seed: seedOf(4), grant: grant.bytes, addresses })

/** A ticket as text. */
export const ticket: Decoder = {
  name: 'ticket',
  form: 'text',
  limit: 4 * limits.MAX_RECORD,
  seeds: [utf8(ticketText), utf8(ticketText.toUpperCase())],
  reads: ['protocols/ticket.js'],
  quick: 100,
  decode: (input) => {
    const ticket = readTicket(text(input))
    must(
      equalBytes(utf8(JSON.stringify(readTicket(writeTicket(ticket)))), utf8(JSON.stringify(ticket))),
      'is read otherwise the second time',
    )
  },
}

/** A ticket by what is in it. */
export const ticketContent: Decoder = {
  ...ticket,
  name: 'ticket-content',
  form: 'cbor',
  limit: limits.MAX_RECORD,
  seeds: [encode([OWNER.publicKey, seedOf(4), grant.bytes, addresses])],
  decode: (input) => ticket.decode(utf8(`dropmesh1${toBase32(input)}`)),
}

export const ids: Decoder = {
  name: 'ids',
  form: 'text',
  limit: 64 * 1024,
  seeds: [utf8(apId(AP.publicKey)), utf8(toBase32(AP.publicKey)), utf8(hex(AP.publicKey))],
  reads: ['protocols/bytes.js'],
  decode: (input) => {
    const one = text(input)
    unhex(one)
    for (const [read, write] of [
      [fromBase32, toBase32],
      [apKey, apId],
    ] as const) {
      try {
        must(write(read(one)).toLowerCase() === one.toLowerCase(), 'is not written as it was read')
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
      }
    }
  },
}

const CHUNK = utf8('a chunk')
const LEAVES = concat(leafOf(new Uint8Array(limits.MAX_CHUNK)), leafOf(CHUNK))

/** What is said of a blob's chunks: [bytes of the blob, root of its tree, leaves, set of chunks, which, chunk]. */
export const chunks: Decoder = {
  name: 'chunks',
  form: 'cbor',
  limit: limits.MAX_CHUNK,
  seeds: [
    encode([limits.MAX_CHUNK + CHUNK.length, rootOf(LEAVES), LEAVES, Uint8Array.of(0x40), 1, CHUNK]),
    encode([CHUNK.length, null, new Uint8Array(), Uint8Array.of(0x80), 0, CHUNK]),
  ],
  reads: ['protocols/chunks.js'],
  decode: (input) => {
    const said = decode(input)
    const [size, root, leaves, bits, index, chunk] = Array.isArray(said) ? said : []
    // What the frames and the records that carry them let through.
    if (!Number.isSafeInteger(size) || size < 0 || size > limits.MAX_BLOB) return
    if (![leaves, bits, chunk].every((part) => part instanceof Uint8Array)) return
    const count = chunksOf(size)
    const set = new ChunkSet(count, bits)
    const all = Array.from({ length: count }, (_, at) => at)
    must(set.size === all.filter((at) => set.has(at)).length, 'another number of chunks than it has')
    must(equalBytes(new ChunkSet(count, set.bits).bits, set.bits), 'is read otherwise the second time')
    const blob = { digest: sha256(CHUNK), size, root: root instanceof Uint8Array ? root : undefined }
    const known = count <= 1 ? Leaves.ofOne(blob) : Leaves.of(blob, leaves)
    if (!Number.isSafeInteger(index) || index < 0 || index >= count || !known.matches(index, chunk)) return
    const { start, end } = spanOf(size, index)
    must(chunk.length === end - start, 'a chunk of another length')
  },
}

/** As much of a stream as `Frames` uses. What comes while it is paused waits. */
class Pieces extends EventTarget {
  readStatus = 'readable'
  remoteWriteStatus = 'writable'
  readBufferLength = 0
  private readonly waiting: Uint8Array[] = []

  pause(): void {
    this.readStatus = 'paused'
  }

  resume(): void {
    this.readStatus = 'readable'
    while (this.waiting.length > 0 && this.readStatus === 'readable') this.give(this.waiting.shift()!)
    this.readBufferLength = this.waiting.length
  }

  push(piece: Uint8Array): void {
    this.waiting.push(piece)
    if (this.readStatus === 'readable') this.resume()
    this.readBufferLength = this.waiting.length
  }

  end(): void {
    this.remoteWriteStatus = 'closed'
    this.dispatchEvent(new Event('remoteCloseWrite'))
  }

  private give(piece: Uint8Array): void {
    this.dispatchEvent(Object.assign(new Event('message'), { data: piece }))
  }
}

/** The frames in a stream that arrives in pieces of one length, and why it ends. */
async function framesOf(stream: Uint8Array, length: number): Promise<string[]> {
  const pieces = new Pieces()
  const frames = new Frames(pieces as unknown as Stream, limits.MAX_SMALL_FRAME)
  const read: string[] = []
  const reading = (async () => {
    for (;;) read.push(hex(await frames.readBytes()))
  })().catch((error) => {
    // How a stream ends is no matter of what is in it.
    if (!(error instanceof MeshError) && !/ended before/.test(error.message)) throw error
    read.push(error.message)
  })
  for (let at = 0; at < stream.length; at += length) pieces.push(stream.subarray(at, at + length))
  pieces.end()
  await reading
  return read
}

export const stream: Decoder = {
  name: 'stream',
  form: 'bytes',
  limit: 4 * limits.MAX_SMALL_FRAME,
  seeds: [
    Uint8Array.of(3, 1, 0xa0, 3, 1, 2, 3, 0),
    concat(Uint8Array.of(50, 0x80, 0x08), new Uint8Array(1024), Uint8Array.of(1, 5)),
    Uint8Array.of(1, 0x80, 0x80, 0x80, 0x80, 1),
  ],
  reads: ['node/mesh/frames.js'],
  decode: async (input) => {
    const [length, all] = [1 + (input[0] ?? 0), input.subarray(1)]
    must(
      (await framesOf(all, length)).join() === (await framesOf(all, all.length + 1)).join(),
      'depends on how it comes in pieces',
    )
  },
}

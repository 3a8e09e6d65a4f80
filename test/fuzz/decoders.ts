// Everything that reads what came from outside: from the network, from a disk, from a person's files. One row each: what it
// is fed, and what it must answer to any of it, which is a value or a MeshError.
import { mkdirSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { isDeepStrictEqual } from 'node:util'
import { gzipSync } from 'node:zlib'
import type { Stream } from '@libp2p/interface'
import * as cborg from 'cborg'
import { Hono } from 'hono'
import { pino } from 'pino'
import ssh2 from 'ssh2'
import type { z } from 'zod'
import { lock, readLocked, unlock } from '../../cli/key-file.js'
import { AGENT, sshPublicKey, sshSigner } from '../../cli/ssh.js'
import { unpack } from '../../cli/unpack.js'
import type { Ap } from '../../node/ap.js'
import { addOwnRoutes, addRoutes } from '../../node/api/server.js'
import { Tokens } from '../../node/api/tokens.js'
import { loadBelonging } from '../../node/belonging.js'
import { LeaseBook } from '../../node/chutes/lease-book.js'
import { loadConfig } from '../../node/config.js'
import { BootCounter, KnownPeers, loadSeed } from '../../node/identity.js'
import { Frames } from '../../node/mesh/frames.js'
import { importArchive } from '../../node/packages/archive.js'
import type { BlobStore } from '../../node/packages/blobs.js'
import { isWhole } from '../../node/packages/catalogue.js'
import { digestOf, isDigest, isName, isTag, readManifest } from '../../node/packages/oci.js'
import { rangeOf } from '../../node/packages/registry.js'
import { tarOf } from '../../node/packages/tar.js'
import { Unpacked } from '../../node/packages/unpacked.js'
import { SmallFile } from '../../node/store/files.js'
import { meta, put, Sum, sort } from '../../node/store/layout.js'
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
} from '../../protocols/bytes.js'
import { ChunkSet, chunksOf, Leaves, leafOf, rootOf, spanOf } from '../../protocols/chunks.js'
import { decode, encode } from '../../protocols/codec.js'
import { readEnv } from '../../protocols/compose-env.js'
import {
  datagramMessage,
  keyIdOf,
  openDatagram,
  ReplayWindow,
  reachCard,
  sealDatagram,
} from '../../protocols/datagram.js'
import { FORMAT, open, readBack, type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { folderNameOf, isGitUrl, parseGitUrl } from '../../protocols/git-url.js'
import { checkKind, type Kind } from '../../protocols/kinds.js'
import * as limits from '../../protocols/limits.js'
import { parseManifest, toSpec } from '../../protocols/manifest.js'
import { readDescriptor, writeDescriptor } from '../../protocols/package.js'
import { parseParadrop } from '../../protocols/paradrop.js'
import { readTicket, writeTicket } from '../../protocols/ticket.js'
import * as wire from '../../protocols/wire.js'
import { AP, CLOCK, GOOD, INSTANCE, TICKET } from '../protocols/samples.js'
import { MESH, NOW, OWNER, record, sealRaw, seedOf } from '../protocols/support.js'
import { scratch } from '../support/scratch.js'
import { Blobs } from './blobs.js'
import type { Form } from './mutate.js'

export interface Decoder {
  readonly name: string
  /** What mutants are made by. */
  readonly form: Form
  /** Bytes of the longest input: what its caller lets through, or what it checks itself, and some more. */
  readonly limit: number
  /** The first one is read without a complaint. */
  readonly seeds: readonly Uint8Array[]
  /** The scripts whose branches count as reached or not. */
  readonly reads: readonly string[]
  /** Fresh inputs in the quick test: fewer where one takes long. */
  readonly quick?: number
  /** Throws anything but a MeshError where something is wrong with it. */
  decode(input: Uint8Array): unknown
}

const must = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(what)
}
const text = (input: Uint8Array): string => Buffer.from(input).toString()

// --- protocols/ ---------------------------------------------------------------------------------------------------------

const key = (n: number): Uint8Array => new Uint8Array(32).fill(n)
const records = (Object.keys(GOOD) as Kind[]).map((kind) => {
  const { by, subject, body } = GOOD[kind]
  return seal(by, MESH, CLOCK, kind, subject, body)
})
const payloadOf = (record: SignedRecord): Uint8Array => (decode(record.bytes) as [Uint8Array])[0]

const cbor: Decoder = {
  name: 'cbor',
  form: 'cbor',
  limit: limits.MAX_SYNC_FRAME,
  seeds: [...records.map(payloadOf), encode([1, -1, 2 ** 40, 1.5, 'é', true, null, { a: [{}] }, new Uint8Array(300)])],
  reads: ['protocols/codec.js'],
  decode: (input) => must(equalBytes(encode(decode(input)), input), 'is not written as it was read'),
}

const envelope: Decoder = {
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
const payload: Decoder = {
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
const kinds = (Object.keys(GOOD) as Kind[]).map((kind): Decoder => {
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
const bytes = records[0]!.bytes
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
const frames = Object.entries(FRAMES).map(
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
const datagram: Decoder = {
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
const addresses = ['/ip4/10.0.0.1/tcp/4010/p2p/12D3KooW']
const ticketText = writeTicket({ meshKey: OWNER.publicKey, seed: seedOf(4), grant: grant.bytes, addresses })

/** A ticket as text. */
const ticket: Decoder = {
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
const ticketContent: Decoder = {
  ...ticket,
  name: 'ticket-content',
  form: 'cbor',
  limit: limits.MAX_RECORD,
  seeds: [encode([OWNER.publicKey, seedOf(4), grant.bytes, addresses])],
  decode: (input) => ticket.decode(utf8(`dropmesh1${toBase32(input)}`)),
}

const ids: Decoder = {
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
const chunks: Decoder = {
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

const ENV = `# settings
A=1
export B="two \\"words\\" \${A}" # more
C='as $it is
over lines'
D: \${A:-\${B:-x}}
E
`

const env: Decoder = {
  name: 'env-file',
  form: 'text',
  limit: 64 * 1024,
  seeds: [utf8(ENV), utf8('A="b"')],
  reads: ['protocols/compose-env.js', 'protocols/compose-interpolation.js'],
  quick: 100,
  decode: (input) => {
    const rows = text(input).split('\n').length
    for (const format of ['quoted', 'raw'] as const) {
      const { lines, problems } = readEnv(text(input), (name) => (name < 'M' ? name : undefined), format)
      for (const { line } of [...lines, ...problems]) must(line >= 1 && line <= rows, 'a line that is not there')
    }
  },
}

const MANIFEST = `name: hello
services:
  web:
    build: { context: ., dockerfile: Dockerfile, args: [A=1] }
    command: sh -c 'echo "a b"' \\; c
    entrypoint: [a, "b"]
    environment: { A: 1, B: true, C: "$$x" }
    ports: ["8080", "8080:80/udp", { target: 5, published: 6, protocol: tcp }]
    volumes: [data:/data:ro, { type: volume, source: data, target: /d, read_only: true }]
    tmpfs: /run:size=64m
    healthcheck: { test: ["CMD", "a"], interval: 1m30s, timeout: 3s, retries: 2, start_period: 1s }
    user: "1000"
    working_dir: /app
    stop_grace_period: 5s
    cap_add: [NET_RAW]
    devices: ["/dev/ttyUSB0:/dev/modem"]
    sysctls: [net.ipv4.ip_forward=1]
    ulimits: { nofile: 100, nproc: { soft: 1, hard: 2 } }
    read_only: true
    security_opt: [no-new-privileges]
    deploy:
      replicas: 2
      placement: { constraints: ["node.labels.zone == roof"] }
      resources: { limits: { cpus: "0.5", memory: 64m, pids: 50 } }
  db: &db { image: "redis:7" }
  other:
    <<: *db
    user: "5"
  more:
    extends: other
    env_file: [a.env, {path: b.env, required: false}]
    image: x:\${TAG:-1}
    profiles: [""]
    depends_on: {db: {condition: service_healthy, restart: true}}
    configs: [{source: app, target: /etc/app, mode: 0400}]
    extra_hosts: ["a=10.0.0.1"]
    logging: {options: {max-size: 1m}}
configs: {app: {content: "a $B"}, file: {file: x}}
include: [{path: other.yaml}]
volumes:
  data:
    x-dropmesh: { ephemeral: true }
x-dropmesh:
  rebalance: always
`
const RIGHTS = ['cap:NET_RAW', 'device:*', 'sysctl:net.*', 'ulimit:*', 'port:*']
const SMALL = 'services:\n  web:\n    image: "a:1"\n    ports:\n      - "80"\n'

/** What the manifest reads beside itself. */
const FILES: Record<string, string> = {
  'other.yaml': 'services: {small: {image: x}}',
  'a.env': 'A=1',
  x: 'text',
}

/** What is read in 50 ms; a longer manifest takes longer, in proportion. */
const manifest: Decoder = {
  name: 'manifest',
  form: 'text',
  limit: 8 * 1024,
  seeds: [utf8(MANIFEST), utf8(SMALL)],
  reads: [
    ...[
      'manifest',
      'compose-reader',
      'compose-values',
      'compose-parts',
      'compose-service',
      'compose-checks',
      'compose-files',
    ],
    ...['compose-merge', 'compose-spec', 'compose-env', 'compose-interpolation', 'policy'],
  ].map((file) => `protocols/${file}.js`),
  quick: 100,
  decode: (input) => {
    const read = text(input)
    const around = {
      variables: (name: string) => (name < 'M' ? name : undefined),
      readFile: (path: string) => FILES[path],
    }
    const manifest = parseManifest(read, 'compose.yaml', { ...around, rights: RIGHTS })
    const images = [{ config: key(1), platform: 'linux/amd64' }]
    toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images }])))
  },
}

const ONE_SERVICE = `name: &n go-hello
version: 1
type: light
use: go
command: app $X
as_root: yes
config:
  web: {port: 8080}
  environment: {A: 1, B: }
  host_config: {port_bindings: {81: 81, "53/udp": 5353}}
  net: {wifi: {type: wifi, mode: ap, intfName: wlan0, dhcp: {lease: 12h}}}
  image_source: *n
source: {type: git, url: "https://x.org/a", checkout: v1}
x-dropmesh: {ephemeral: true, base: "b:1"}
`
const SERVICES = `services:
  main:
    type: light
    image: node
    source: web
    command: [npm, start]
    dns: [10.0.0.1]
    build: {packages: [iptables]}
    interfaces: {wlan0: {type: wifi-ap, dhcp: {leasetime: 12h}}}
    requests: {as-root: true, port-bindings: [{external: 8081, internal: 81}], network-mode: bridge}
    x-dropmesh: {cap_add: [NET_RAW]}
  db: {type: image, image: "mongo:3.0"}
web: {service: main, port: 5000}
`
const SOURCES: Record<string, string> = {
  'web/package.json': '{"scripts": {"start": "node x"}}',
  './go.mod': 'require x',
}

const paradrop: Decoder = {
  name: 'paradrop',
  form: 'text',
  limit: 8 * 1024,
  seeds: [utf8(ONE_SERVICE), utf8(SERVICES)],
  reads: ['paradrop', 'paradrop-parts', 'paradrop-service', 'paradrop-light'].map((file) => `protocols/${file}.js`),
  quick: 100,
  decode: (input) => {
    const around = { readFile: (path: string) => SOURCES[path], hasSources: input.length % 2 === 0, rights: RIGHTS }
    const manifest = parseParadrop(text(input), 'paradrop.yaml', around)
    const images = [{ config: key(1), platform: 'linux/amd64' }]
    toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images }])))
  },
}

// --- node/ --------------------------------------------------------------------------------------------------------------

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

const stream: Decoder = {
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

const collected = async (chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> => {
  const all: Uint8Array[] = []
  for await (const chunk of chunks) all.push(chunk)
  return concat(...all)
}
const file = (name: string, content: Uint8Array) => ({ name, size: content.length, body: [content] })
const archive = withChecksums(
  await collected(
    tarOf([file('etc/hosts', utf8('127.0.0.1 localhost')), { name: 'bin', folder: true }, file('bin/empty', utf8(''))]),
  ),
)

/** Right checksums for the headers of an archive, where a header can be: mutants get no further without. */
function withChecksums(archive: Uint8Array): Uint8Array {
  const sound = Uint8Array.from(archive)
  for (let at = 0; at + 512 <= sound.length; at += 512) {
    if (text(sound.subarray(at + 257, at + 262)) !== 'ustar') continue
    sound.fill(0x20, at + 148, at + 156)
    const sum = sound.subarray(at, at + 512).reduce((sum, byte) => sum + byte, 0)
    sound.set(utf8(`${sum.toString(8).padStart(6, '0')}\0 `), at + 148)
  }
  return sound
}

/** A header of another type, of another size. */
function headed(type: string, size: Uint8Array): Uint8Array {
  const odd = Uint8Array.from(archive)
  odd.set(utf8(type), 156)
  odd.set(size, 124)
  return odd
}

/** A layer that an engine is to unpack: how big it is then, a peer says. */
const layer: Decoder = {
  name: 'layer',
  form: 'bytes',
  limit: 64 * 1024,
  seeds: [
    archive,
    gzipSync(archive),
    ...['x', 'g', 'L', 'K', 'S', '5', '2', '7'].map((type) => headed(type, utf8('00000000017 '))),
    headed('x', Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0)),
  ],
  reads: ['node/packages/unpacked.js'],
  quick: 100,
  decode: async (input) => {
    const bytes = input[0] === 0x1f ? input : withChecksums(input)
    const read = async (_: string, { start = 0, end = bytes.length } = {}) =>
      Readable.from([bytes.subarray(start, end)])
    await new Unpacked({ read, size: () => bytes.length }).sizeOf('', 2 ** 20)
  },
}

/** What a package is made of, as a publisher's node wrote it. */
const packageDescriptor: Decoder = {
  name: 'package',
  form: 'cbor',
  limit: limits.MAX_CHUNK,
  seeds: [
    writeDescriptor([
      { digest: key(1), size: 5 },
      { digest: key(2), size: 2 ** 20, root: key(3) },
    ]),
  ],
  reads: ['protocols/package.js'],
  decode: (input) => {
    const written = writeDescriptor(readDescriptor(input).values())
    must(
      hex(writeDescriptor(readDescriptor(written).values())) === hex(written),
      'is read otherwise than it was written',
    )
  },
}

const layers = [archive, gzipSync(archive)]
const imageConfig = utf8(
  JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [digestOf(archive)] } }),
)
const savedImage = [{ Config: 'c.json', RepoTags: ['alice/app:1'], Layers: ['l/layer.tar'] }]
const pointer = (mediaType: string, bytes: Uint8Array) => ({
  mediaType: `application/vnd.oci.image.${mediaType}`,
  digest: digestOf(bytes),
  size: bytes.length,
})
const manifestOf = (layer: object) =>
  utf8(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: pointer('config.v1+json', imageConfig),
      layers: [layer],
    }),
  )
const packedImage = manifestOf(pointer('layer.v1.tar+gzip', layers[1]!))
const unpackedImage = manifestOf(pointer('layer.v1.tar', layers[0]!))
const indexOf = (manifest: Uint8Array, more = {}, type = 'manifest') => ({
  schemaVersion: 2,
  manifests: [{ ...pointer(`${type}.v1+json`, manifest), ...more }],
})
const archived = async (files: Record<string, Uint8Array | object>): Promise<Uint8Array> =>
  collected(
    tarOf(
      Object.entries(files).map(([name, content]) =>
        file(name, content instanceof Uint8Array ? content : utf8(JSON.stringify(content))),
      ),
    ),
  )
const pathOf = (bytes: Uint8Array) => `blobs/sha256/${digestOf(bytes).slice('sha256:'.length)}`
const layout = (index: object, ...blobs: Uint8Array[]) => ({
  'oci-layout': { imageLayoutVersion: '1.0.0' },
  'index.json': index,
  ...Object.fromEntries([imageConfig, ...blobs].map((bytes) => [pathOf(bytes), bytes])),
})
const savedElse = { 'c.json': imageConfig, 'manifest.json': savedImage }
const saved = { ...savedElse, 'l/layer.tar': archive }
const platforms = indexOf(packedImage, { platform: { os: 'linux', architecture: 'amd64' } })
const nested = utf8(JSON.stringify({ ...platforms, mediaType: 'application/vnd.oci.image.index.v1+json' }))

/** With a file that is a link now. */
function linked(archive: Uint8Array, name: string, to: string): Uint8Array {
  const at = Buffer.from(archive).indexOf(name)
  const links = Uint8Array.from(archive)
  links.set(utf8(`2${to}`), at + 156)
  return withChecksums(links)
}

const log = pino({ level: 'silent' })

/** @returns the images */
export const importInto = (store: BlobStore, input: Uint8Array) =>
  importArchive(store, Readable.from([input[0] === 0x1f ? input : withChecksums(input)]), { log, limit: 2 ** 20 })

/** Images in a file, from who publishes them. */
const images: Decoder = {
  name: 'archive',
  form: 'bytes',
  limit: 64 * 1024,
  seeds: [
    await archived(saved),
    await archived(layout(indexOf(packedImage), packedImage, layers[1]!)),
    gzipSync(await archived(saved)),
    // As `docker save` writes it where the engine keeps layers unpacked, and where it had the layer before.
    await archived({
      ...layout(indexOf(unpackedImage), unpackedImage, layers[0]!),
      'manifest.json': [{ Config: pathOf(imageConfig), RepoTags: null, Layers: [pathOf(layers[0]!)] }],
    }),
    linked(
      await archived({ 'l/layer.tar': utf8(''), 'k/layer.tar': layers[1]!, ...savedElse }),
      'l/layer.tar',
      '../k/layer.tar',
    ),
    await archived(layout(indexOf(nested, {}, 'index'), nested, packedImage, layers[1]!)),
    await archived(
      layout({ ...platforms, manifests: [0, 1].flatMap(() => platforms.manifests) }, packedImage, layers[1]!),
    ),
  ],
  reads: ['node/packages/archive.js', 'node/packages/archive-files.js'],
  quick: 50,
  decode: async (input) => {
    const blobs = new Blobs()
    await blobs.take(Readable.from([layers[1]!]))
    const before = blobs.list()
    const found = await importInto(blobs.store, input).catch((error) => {
      must(isDeepStrictEqual(blobs.list(), before), 'what was refused is left, or took what was there before')
      throw error
    })
    for (const { manifest } of found) must(blobs.has(manifest), 'an image whose manifest is not there')
  },
}

const gitUrl: Decoder = {
  name: 'git-url',
  form: 'text',
  limit: 4096,
  seeds: ['https://h.example/a/b.git#v1:sub', 'git@h:a.git', 'ssh://u@[::1]:22/a#main', 'git://h/a'].map(utf8),
  reads: ['protocols/git-url.js'],
  decode: (input) => {
    const { repository, ref, folder } = parseGitUrl(text(input))
    must(![repository, ref].some((word) => word?.startsWith('-')), 'git takes it for an option')
    must(/^(https?|git|ssh):|^[^:/]+@[^:/]+:/.test(repository), 'another way than those of git that are meant')
    must(!folder.split('/').includes('..'), 'a folder outside')
    isGitUrl(text(input))
    folderNameOf({ repository, ref, folder, scheme: 'https' })
  },
}

/** A file of an AP, and what the AP asks of it then. */
const smallFile = (
  name: string,
  reads: string,
  form: Form,
  seeds: string[],
  decode: (dir: string, file: string) => unknown,
): Decoder => {
  const dir = scratch('fuzz')
  mkdirSync(join(dir, 'keys'))
  const path = join(dir, name)
  return {
    name: `file-${name.replace(/.*\/|\..*/g, '')}`,
    form,
    limit: 4096,
    seeds: seeds.map((seed) => utf8(seed)),
    reads: [reads],
    quick: 100,
    decode: (input) => {
      writeFileSync(path, input)
      return decode(dir, path)
    },
  }
}

const ballot = { generation: 1, voters: [hex(key(1))] }
const files = [
  smallFile(
    'leases',
    'node/chutes/lease-book.js',
    'json',
    [JSON.stringify({ promises: { a: { epoch: 1, holder: 'b' } }, released: { a: 1 }, signed: { a: ballot } })],
    (_, path) => LeaseBook.load(new SmallFile(path)),
  ),
  smallFile('peers', 'node/identity.js', 'json', [JSON.stringify({ [apId(AP.publicKey)]: addresses })], async (dir) => {
    const known = await new KnownPeers(dir).load()
    must(
      Object.values(known)
        .flat()
        .every((address) => typeof address === 'string'),
      'an address that is no text',
    )
  }),
  smallFile(
    'mesh',
    'node/belonging.js',
    'json',
    [JSON.stringify({ meshKey: hex(OWNER.publicKey), admission: { grant: hex(bytes), member: hex(bytes) } })],
    async (dir) => {
      const { admission } = (await loadBelonging(dir)) ?? {}
      if (admission) for (const envelope of [admission.grant, admission.member]) open(unhex(envelope), MESH)
    },
  ),
  smallFile(
    'tokens',
    'node/api/tokens.js',
    'json',
    [JSON.stringify([{ id: 'a', digest: hex(key(1)), right: 'read', until: NOW }])],
    async (_, path) => {
      const tokens = await Tokens.open(new SmallFile(path), () => 0)
      tokens.list()
      tokens.rightOf('dmt_x')
    },
  ),
  smallFile('boot', 'node/identity.js', 'text', ['12\n'], async (dir) =>
    must(Number.isSafeInteger((await BootCounter.load(dir)).last), 'no number'),
  ),
  smallFile('keys/ap.key', 'node/identity.js', 'text', [`${hex(key(1))}\n`], async (dir) =>
    must((await loadSeed(join(dir, 'keys'), 'ap'))?.length === 32, 'no key'),
  ),
  smallFile(
    'config.yaml',
    'node/config.js',
    'text',
    [
      'name: a\nlisten: [/ip4/0.0.0.0/tcp/4010]\nlabel: { a: 1 }\nno-mdns: true\nprefetch-max: 2g\nhttp: "127.0.0.1:80"\n',
    ],
    (dir) => loadConfig(dir, {}, {}),
  ),
]

/** What lies in LevelDB, key by key. */
const store: Decoder = {
  name: 'store',
  form: 'cbor',
  limit: limits.MAX_RECORD,
  seeds: [
    encode([
      ...[
        ...records.slice(0, 3).map(put),
        meta('schema', 2),
        meta('mark', { writes: 1, records: 3, sum: `${Sum.of(records.slice(0, 3))}` }),
      ].map((op) => [op.key, (op as { value: Uint8Array }).value]),
      ['event!000000000001', utf8('{"at":"x"}')],
    ]),
  ],
  reads: ['node/store/layout.js'],
  quick: 150,
  decode: (input) => {
    const all = decode(input)
    const entries = (Array.isArray(all) ? all : []).flatMap((entry) => {
      const [key, value] = Array.isArray(entry) ? entry : []
      return typeof key === 'string' && value instanceof Uint8Array ? [{ key, value }] : []
    })
    const { mark, schema } = sort(entries, true)
    must(
      mark === undefined ||
        (Number.isSafeInteger(mark.writes) && Number.isSafeInteger(mark.records) && typeof mark.sum === 'string'),
      'a mark that is none',
    )
    must(schema === undefined || Number.isSafeInteger(schema), 'a schema that is no number')
  },
}

const DIGEST = `sha256:${hex(key(1))}`
const part = (mediaType: string, more = {}) => ({ mediaType, digest: DIGEST, size: 5, ...more })
const OCI = 'application/vnd.oci.image.'
const ociImage = {
  schemaVersion: 2,
  mediaType: `${OCI}manifest.v1+json`,
  config: part(`${OCI}config.v1+json`),
  layers: [part(`${OCI}layer.v1.tar`), part('x', { urls: ['http://a'] })],
}

/** Manifests of images, from a client of the registry or from peers. */
const ociManifest: Decoder = {
  name: 'oci-manifest',
  form: 'json',
  limit: 256 * 1024,
  seeds: [
    ociImage,
    { schemaVersion: 2, manifests: [part(ociImage.mediaType)], annotations: { a: 'b' } },
    { ...ociImage, mediaType: undefined, artifactType: 'a/b', subject: part(ociImage.mediaType) },
  ].map((manifest) => utf8(JSON.stringify(manifest))),
  reads: ['node/packages/oci.js'],
  decode: (input) => {
    const { mediaType, blobs, children } = readManifest(input)
    must([...blobs, ...children].every(isDigest), 'a digest that is none')
    must(readManifest(input, mediaType).mediaType === mediaType, 'is read otherwise by its own type')
  },
}

/** The words of a request to the registry, a line each: name, tag, digest, range. */
const ociWords: Decoder = {
  name: 'oci-words',
  form: 'text',
  limit: 64 * 1024,
  seeds: [utf8(`library/a__b.c--d\nv1.0-x\n${DIGEST}\nbytes=5-9`), utf8('a\n_\n\nbytes=-3'), utf8('a\n\n\nbytes=7-')],
  reads: ['node/packages/oci.js', 'node/packages/registry.js'],
  decode: (input) => {
    const [name = '', tag = '', digest = '', range] = text(input).split('\n')
    // They become keys of the catalogue, where "!" parts one from the next.
    for (const is of [isName(name) && name, isTag(tag) && tag, isDigest(digest) && digest])
      must(is === false || !/[!"\s]/.test(is), 'a word that is no part of a key')
    for (const size of [0, 10, 2 ** 40]) {
      const asked = rangeOf(range, size)
      if (asked === undefined || asked === 'none') continue
      must(0 <= asked.start && asked.start < asked.end && asked.end <= size, 'a range that is not there')
    }
  },
}

const noted = (key: string, value: object) => [key, JSON.stringify(value)]

/** What can be read of a damaged index of packages, key by key. */
const catalogue: Decoder = {
  name: 'catalogue',
  form: 'json',
  limit: 32 * 1024,
  seeds: [
    noted(`blob!${DIGEST}`, { size: 5, used: NOW }),
    noted(`manifest!${DIGEST}`, { refers: [DIGEST], subject: DIGEST }),
    noted('tag!a!b', { digest: DIGEST }),
    noted(`referrer!a!${DIGEST}!${DIGEST}`, {}),
  ].map((entry) => utf8(JSON.stringify(entry))),
  reads: ['node/packages/catalogue.js'],
  decode: (input) => {
    let entry: unknown
    try {
      entry = JSON.parse(text(input))
    } catch {}
    const [key, value] = Array.isArray(entry) ? entry : []
    if (typeof key === 'string' && typeof value === 'string') isWhole({ key, value: utf8(value) })
  },
}

let failed: string | undefined
const note = ({ reason }: { reason: string }): void => {
  failed = reason
}

/** An AP that answers nothing: what comes to it was read. */
const nobody = new Proxy({} as Ap, {
  get: (_, name) => {
    if (name === 'log') return { error: note }
    throw new MeshError('read', 'it was read')
  },
})
const app = addOwnRoutes(addRoutes(new Hono(), nobody), nobody, nobody as unknown as Tokens)

/** Requests as [path with query, body]. */
const api: Decoder = {
  name: 'api',
  form: 'json',
  limit: 80 * 1024,
  seeds: [
    ...[
      ['status'],
      ['aps'],
      ['chutes'],
      ['instances'],
      ['inspect?of=a'],
      ['history?of=a'],
      [`next?name=a&publisher=${hex(key(1))}`],
      ['clock'],
      ['grants'],
      ['entrances'],
      ['invites'],
      ['requests'],
      ['stakes?of=a'],
      ['secrets?of=a'],
      ['secrets/given?ap=a'],
      ['chute?of=a'],
      ['proof?of=a'],
      ['ap?of=a'],
      ['voters?of=a'],
      ['tokens'],
    ],
    ...[
      ['records', 'x'],
      ['approve', { ap: 'a', grant: hex(key(1)), ticket: hex(key(2)), at: CLOCK, signature: hex(new Uint8Array(64)) }],
      ['images/resolve', { ref: 'a:1' }],
      ['images/build?dockerfile=a&onBaseImage=true&args=%7B%22a%22%3A%22b%22%7D', 'tar'],
      ['images/import', 'tar'],
      ['sources/git', { url: 'https://h.example/a.git#v1:b' }],
      ['sources', 'tar'],
      ['packages', { roots: [hex(key(1))] }],
      ['handover', ''],
      ['tokens', { right: 'read', age: 5000 }],
      ['tokens/remove', { id: 'a' }],
    ],
  ].map((request) => utf8(JSON.stringify(request))),
  reads: ['node/api/server.js'],
  quick: 150,
  decode: async (input) => {
    let request: unknown
    try {
      request = JSON.parse(text(input))
    } catch {}
    const [path, body] = Array.isArray(request) ? request : []
    if (typeof path !== 'string' || path.startsWith('events')) return
    failed = undefined
    const content = typeof body === 'string' ? body : JSON.stringify(body)
    const url = new URL(`http://localhost/v1/${path}`)
    const answer = await app.request(url, body === undefined ? {} : { method: 'POST', body: content })
    const said = await answer.text()
    // What streams its answer says so there.
    must(!said.includes('"code":"internal"'), said)
    if (failed !== undefined || answer.status >= 500) throw new Error(failed ?? `status ${answer.status}`)
  },
}

// --- cli/ ---------------------------------------------------------------------------------------------------------------

const PASSPHRASE = 'correct horse'
const locked = JSON.parse(lock('publisher', 'me', seedOf(1), PASSPHRASE))
const checked = ({ check: _, ...rest }: Record<string, unknown>) => ({
  ...rest,
  check: hex(sha256(utf8(JSON.stringify(rest)))).slice(0, 16),
})
const cheap = (changes: object) => checked({ ...locked, scrypt: { ...locked.scrypt, N: 2, r: 1, ...changes } })

const keyFile: Decoder = {
  name: 'key-file',
  form: 'json',
  limit: 8 * 1024,
  seeds: [cheap({}), cheap({ N: 2 ** 17 }), cheap({ p: 16 })].map((file) => utf8(JSON.stringify(file))),
  reads: ['cli/key-file.js'],
  quick: 150,
  decode: (input) => {
    let file: unknown
    try {
      // A check that fits, as who alters a file on purpose can make it.
      file = checked(JSON.parse(text(input)))
    } catch {}
    const key = readLocked(file === undefined ? text(input) : JSON.stringify(file), 'a file')
    const { N, r, p } = key.scrypt
    must(128 * N * r * p <= 2 ** 30, 'costs more than is allowed')
    if (N * r * p <= 64) unlock(key, PASSPHRASE, 'a file')
  },
}

const sshFiles = ssh2.utils.generateKeyPairSync('ed25519')
const sshFile = smallFile(
  'id',
  'cli/ssh.js',
  'text',
  [
    sshFiles.private,
    `${sshFiles.public} me@desk\n`,
    ssh2.utils.generateKeyPairSync('ed25519', { passphrase: 'a', cipher: 'aes256-ctr', rounds: 1 }).private,
  ],
  async (_, path) => {
    must((await sshPublicKey(path)).length === 32, 'a key that is none')
  },
)

/** The lines of an OpenSSH private key, from what is in it. */
const sshKey: Decoder = {
  ...sshFile,
  name: 'ssh-key',
  form: 'bytes',
  seeds: [Uint8Array.from(Buffer.from(sshFiles.private.split('\n').slice(1, -2).join(''), 'base64'))],
  decode: (input) =>
    sshFile.decode(
      utf8(
        `-----BEGIN OPENSSH PRIVATE KEY-----\n${Buffer.from(input).toString('base64').replace(/.{70}/g, '$&\n')}\n-----END OPENSSH PRIVATE KEY-----\n`,
      ),
    ),
}

/** A public key, from what is in it. */
const sshPublic: Decoder = {
  ...sshKey,
  name: 'ssh-public',
  seeds: [Uint8Array.from(Buffer.from(sshFiles.public.split(' ')[1]!, 'base64'))],
  decode: (input) => sshFile.decode(utf8(`ssh-ed25519 ${Buffer.from(input).toString('base64')} me\n`)),
}

/** The files of a repository, as the tar that a node sends of it. */
const outside = scratch('fuzz')
const home = join(outside, 'home')
const sources: Decoder = {
  name: 'sources',
  form: 'bytes',
  limit: 64 * 1024,
  seeds: [
    archive,
    headed('5', utf8('00000000017 ')),
    linked(await archived({ 'a/b': utf8('b'), 'a/link': utf8('') }), 'a/link', 'b'),
    linked(await archived({ 'a/b': utf8('b'), 'a/link': utf8('') }), 'a/link', '../..'),
    linked(await archived({ 'a/link': utf8(''), 'a/link/b': utf8('b') }), 'a/link', '..'),
    // By its text the second one stays inside, and the third one is behind it.
    linked(
      linked(
        linked(await archived({ 'd/up': utf8(''), out: utf8(''), 'out/far/link': utf8('') }), 'd/up', '..'),
        'out',
        'd/up/..',
      ),
      'out/far/link',
      'x',
    ),
    await archived({ [`${'d/'.repeat(60)}${'x'.repeat(90)}`]: utf8('a long name') }),
  ],
  reads: ['cli/unpack.js'],
  quick: 50,
  decode: async (input) => {
    mkdirSync(home)
    try {
      await unpack(Readable.from([withChecksums(input)]), home)
    } finally {
      const astray = [...pathsIn(outside)].find((path) => !`${path}/`.startsWith(`${home}/`) || !leadsInside(path))
      rmSync(home, { recursive: true })
      must(astray === undefined, `${astray} is outside the folder, or leads out of it`)
    }
  },
}

/** All that is in a folder, and nothing behind a link: Node's own search goes on in links for as long as they lead. */
function* pathsIn(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    yield path
    if (entry.isDirectory()) yield* pathsIn(path)
  }
}

/** Where something is. A link that leads nowhere may lead there. */
function leadsInside(path: string): boolean {
  try {
    const leads = realpathSync(path)
    return leads === home || leads.startsWith(`${home}/`)
  } catch {
    return true
  }
}

const u32 = (n: number): Uint8Array => Uint8Array.of(n >>> 24, n >>> 16, n >>> 8, n)
const string = (bytes: Uint8Array): Uint8Array => concat(u32(bytes.length), bytes)
const sshBlob = concat(string(utf8('ssh-ed25519')), string(AP.publicKey))
const MESSAGE = utf8('a record')
const sshSignature = concat(string(utf8('ssh-ed25519')), string(AP.sign(MESSAGE)))

/** What an ssh-agent answers: which keys it has, and what it signs; and for each, whether it has the length that it says. */
let agentAnswers: unknown[] = []
const agentPath = join(scratch('fuzz'), 'agent.sock')
createServer((socket) => {
  socket.on('error', () => {})
  socket.on('data', (asked) => {
    const answer = agentAnswers[asked[4] === 11 ? 0 : 1]
    const [isFramed, said] = Array.isArray(answer) ? answer : []
    const bytes = said instanceof Uint8Array ? said : new Uint8Array()
    socket.end(isFramed === 1 ? string(bytes) : bytes)
  })
})
  .listen(agentPath)
  .unref()

const sshAgent: Decoder = {
  name: 'ssh-agent',
  form: 'cbor',
  limit: 64 * 1024,
  seeds: [
    encode([
      [1, concat(Uint8Array.of(12), u32(1), string(sshBlob), string(utf8('me@desk')))],
      [1, concat(Uint8Array.of(14), string(sshSignature))],
    ]),
    encode([[1, Uint8Array.of(5)]]),
  ],
  reads: ['cli/ssh.js'],
  quick: 50,
  decode: async (input) => {
    const answers = decode(input)
    agentAnswers = Array.isArray(answers) ? answers : []
    process.env.SSH_AUTH_SOCK = agentPath
    const signer = await sshSigner(AGENT)
    must(signer.publicKey.length === 32, 'a key that is none')
    await signer.sign(MESSAGE)
  },
}

export const DECODERS: readonly Decoder[] = [
  ...[cbor, envelope, payload, ...kinds, ...frames, datagram, stream, ticket, ticketContent, ids, chunks, env],
  ...[
    manifest,
    gitUrl,
    paradrop,
    packageDescriptor,
    layer,
    images,
    ociManifest,
    ociWords,
    catalogue,
    ...files,
    store,
    api,
  ],
  ...[sources, keyFile, { ...sshFile, name: 'ssh-file' }, sshKey, sshPublic, sshAgent],
]

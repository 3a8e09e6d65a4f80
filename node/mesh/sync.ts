// Sync: makes the ledgers of two APs equal, at a cost that follows their difference. What is compared with what,
// protocols/sync.ts decides; here it travels. protocols/README.md says how.
import type { Stream } from '@libp2p/interface'
import { concat, equalBytes, hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import type { RecordOf } from '../../protocols/kinds.js'
import { inOrder } from '../../protocols/known.js'
import { MAX_SYNC_FRAME } from '../../protocols/limits.js'
import { isNewer } from '../../protocols/refutation.js'
import { compareRange, type Range, wholeRange } from '../../protocols/sync.js'
import { type BeaconMark, readRange, type SyncFrame, splitHashes, syncFrame, writeRange } from '../../protocols/wire.js'
import type { LedgerStore } from '../store/ledger-store.js'
import { Frames } from './frames.js'

/** Of each read or write, in milliseconds; and of a whole exchange. */
const FRAME_DEADLINE = 10_000
const DEADLINE = 120_000
/** A page of records in bytes, of hashes and of ranges in number. */
const PAGE_BYTES = MAX_SYNC_FRAME - 40 * 1024
const PAGE_HASHES = 4096
const PAGE_RANGES = 256
/** Frames one side may send in one exchange: a million records, and an end to a peer that never ends. */
const MAX_FRAMES = 20_000
/** Records asked for, and ranges answered, in one exchange; what differs beyond them, the next one finds. 8 and 5 MB. */
const MAX_WANTED = 250_000
const MAX_RANGES = 20_000
/** Records of a peer that are refused before the exchange is given up: an honest one sends none. */
const MAX_REFUSED = 100
/** What a record costs that is given or was no news, and an exchange that brings nothing, in comparisons of a hash. */
const RECORD_WORK = 8
const GREETING_WORK = 16

/** What an exchange travels on. */
export type SyncFrames = Pick<Frames, 'read' | 'write'>

/** @param stream a fresh one */
export const syncFrames = (stream: Stream): SyncFrames => new Frames(stream, MAX_SYNC_FRAME, FRAME_DEADLINE, DEADLINE)

type Beacon = RecordOf<'beacon'>

export interface SyncDependencies {
  readonly store: LedgerStore
  /** The latest beacons of this AP's neighbours and of the peer's, as far as they are known here. Both know their own. */
  ownBeacons(): Beacon[]
  peerBeacons(): Beacon[]
  onBeacon(beacon: SignedRecord): void
  /** The peer brought records, however the exchange ends. */
  onLearned?(): void
  /** A record that the peer sent is provably bad. */
  onRefused(error: MeshError): void
  /**
   * Takes from what the peer may have this AP work for it, and says whether there was as much: a hash that is compared is 1, and
   * a record that is given, or taken in and no news, 8. An honest one needs a whole ledger once.
   */
  spend?(work: number): boolean
  /** The peer's time in milliseconds since 1970. */
  onTime?(ms: number): void
}

export interface SyncResult {
  readonly received: number
  readonly sent: number
}

/**
 * Initiates an exchange. When it resolves, both sides have synced to disk what they got.
 * @throws Error where the other side takes this AP for no member: it keeps nothing of what is here
 */
export async function initiateSync(frames: SyncFrames, deps: SyncDependencies): Promise<SyncResult> {
  const exchange = new Exchange(frames, deps)
  const digest = deps.store.ledger.digest()
  await exchange.greet(digest)
  const [, theirs, time, known] = await exchange.expect('hello')
  deps.onTime?.(time)
  await exchange.takeTurn()
  if (!equalBytes(theirs, digest) && !exchange.isCompared) throw new Error('it compares no ledgers with this AP')
  await exchange.send('beacons', newsIn(deps.peerBeacons(), known))
  if (await exchange.giveTurn()) await exchange.alternate()
  return exchange.result
}

/** Answers an exchange. */
export async function answerSync(frames: SyncFrames, deps: SyncDependencies): Promise<SyncResult> {
  const exchange = new Exchange(frames, deps)
  const { ledger } = deps.store
  const [, theirs, time, known] = await exchange.expect('hello')
  deps.onTime?.(time)
  const digest = ledger.digest()
  const whole = wholeRange(ledger)
  // What is said to be here is taken to be safe here, also where the two prove equal and nothing more is said.
  await deps.store.saved()
  await exchange.greet(digest)
  await exchange.send('beacons', newsIn(deps.peerBeacons(), known))
  if (!equalBytes(theirs, digest)) exchange.ask(whole)
  await exchange.giveTurn()
  await exchange.alternate()
  return exchange.result
}

/** Answers an AP that was forgotten: it gets the records that say so, and nothing else. What it has nobody asks for. */
export async function answerForgotten(
  frames: SyncFrames,
  deps: SyncDependencies,
  records: SignedRecord[],
): Promise<void> {
  const exchange = new Exchange(frames, deps)
  await exchange.expect('hello')
  await exchange.write(['hello', deps.store.ledger.digest(), deps.store.clock.now(), []])
  await exchange.send(
    'records',
    records.map(({ bytes }) => bytes),
  )
  await exchange.write(['end'])
  while ((await exchange.read())[0] !== 'end');
}

/** One side of an exchange: strictly by turns, each of frames that end with `end`, until one asks nothing of the other. */
class Exchange {
  /** Whether the other side has compared its ledger with this one. */
  isCompared = false
  private count = 0
  private received = 0
  private refused = 0
  private asked = 0
  private wanted = 0
  /** What the next turn of this side says. Of hashes joined pages are kept: arrays of their own take seven times as much. */
  private ranges: Range[] = []
  private want: Uint8Array[] = []
  private give = new Set<SignedRecord>()
  /** What was given: nothing twice, or one who asks again and again would get a ledger for each question. */
  private readonly given = new Set<SignedRecord>()

  constructor(
    private readonly frames: SyncFrames,
    private readonly deps: SyncDependencies,
  ) {}

  get result(): SyncResult {
    return { received: this.received, sent: this.given.size }
  }

  greet(digest: Uint8Array): Promise<void> {
    this.spend(GREETING_WORK)
    return this.write(['hello', digest, this.deps.store.clock.now(), this.deps.ownBeacons().map(markOf)])
  }

  write(frame: SyncFrame): Promise<void> {
    return this.frames.write(frame)
  }

  async read(): Promise<SyncFrame> {
    if (++this.count > MAX_FRAMES) throw new MeshError('malformed', `a sync of more than ${MAX_FRAMES} frames`)
    return this.frames.read(syncFrame)
  }

  async expect<K extends SyncFrame[0]>(kind: K): Promise<Extract<SyncFrame, [K, ...unknown[]]>> {
    const frame = await this.read()
    if (frame[0] !== kind) throw unexpected(frame)
    return frame as Extract<SyncFrame, [K, ...unknown[]]>
  }

  /** Takes and gives turns until one of them asks nothing. The other side is waiting for no turn then. */
  async alternate(): Promise<void> {
    while ((await this.takeTurn()) && (await this.giveTurn()));
  }

  ask(range: Range): void {
    if (this.asked++ < MAX_RANGES) this.ranges.push(range)
  }

  /** Reads one turn of the other side. Resolves once all records in it are on disk; true where it asks for a turn. */
  async takeTurn(): Promise<boolean> {
    let isAsking = false
    for (;;) {
      const frame = await this.read()
      if (frame[0] === 'end') break
      if (frame[0] === 'hello') throw unexpected(frame)
      isAsking ||= frame[0] !== 'beacons'
      if (frame[0] === 'ranges') {
        this.isCompared = true
        for (const range of frame[1]) this.compare(readRange(range))
      }
      if (frame[0] === 'want') this.noteWanted(splitHashes(frame[1]))
      if (frame[0] === 'records' || frame[0] === 'beacons') await this.takeIn(frame[1])
    }
    // What the other side did not send because it is here already may still be on its way to the disk.
    await this.deps.store.saved()
    return isAsking
  }

  /** Says what this side has to say. Returns true where that asks the other side for a turn. */
  async giveTurn(): Promise<boolean> {
    const { ranges, want, give } = this
    this.ranges = []
    this.want = []
    this.give = new Set()
    for (let at = 0; at < ranges.length; at += PAGE_RANGES) {
      await this.write(['ranges', ranges.slice(at, at + PAGE_RANGES).map(writeRange)])
    }
    for (const page of want) await this.write(['want', page])
    await this.send(
      'records',
      inOrder([...give]).map(({ bytes }) => bytes),
    )
    await this.write(['end'])
    return ranges.length + want.length + give.size > 0
  }

  private compare(range: Range): void {
    this.spend('hashes' in range ? range.hashes.length : range.digests.length / 16)
    const { ranges, want, give } = compareRange(this.deps.store.ledger, range)
    for (const one of ranges) this.ask(one)
    const wanted = want.slice(0, MAX_WANTED - this.wanted)
    this.wanted += wanted.length
    if (wanted.length > 0) this.want.push(concat(...wanted))
    for (const record of give) this.noteGift(record)
  }

  /** @throws MeshError `too-much` */
  private spend(work: number): void {
    if (this.deps.spend?.(work) === false)
      throw new MeshError('too-much', 'more work for syncs than one AP may ask for')
  }

  private noteWanted(hashes: Uint8Array[]): void {
    this.spend(hashes.length)
    for (const hash of hashes) {
      const record = this.deps.store.ledger.get(hash)
      if (record !== undefined) this.noteGift(record)
    }
  }

  private noteGift(record: SignedRecord): void {
    if (this.given.has(record)) return
    this.spend(RECORD_WORK)
    this.given.add(record)
    this.give.add(record)
  }

  /** Sends envelopes, in pages. */
  async send(kind: 'records' | 'beacons', envelopes: readonly Uint8Array[]): Promise<void> {
    let page: Uint8Array[] = []
    let size = 0
    for (const bytes of envelopes) {
      if (page.length > 0 && (size + bytes.length > PAGE_BYTES || page.length === PAGE_HASHES)) {
        await this.write([kind, page])
        page = []
        size = 0
      }
      page.push(bytes)
      size += bytes.length
    }
    if (page.length > 0) await this.write([kind, page])
  }

  private async takeIn(envelopes: Uint8Array[]): Promise<void> {
    const { added, beacons, refused } = await this.deps.store.accept(envelopes)
    this.spend(RECORD_WORK * (envelopes.length - added.length))
    for (const beacon of beacons) this.deps.onBeacon(beacon)
    for (const error of refused) this.deps.onRefused(error)
    this.received += added.length
    if (added.length > 0) this.deps.onLearned?.()
    this.refused += refused.length
    if (this.refused > MAX_REFUSED) throw new MeshError('malformed', `a sync with ${this.refused} bad records`)
  }
}

const markOf = ({ signer, body }: Beacon): BeaconMark => [signer, body.boot, body.sequence]

/** What is newer than what the peer says it knows. */
function newsIn(beacons: readonly Beacon[], known: readonly BeaconMark[]): Uint8Array[] {
  const marks = new Map(known.map(([key, boot, sequence]) => [hex(key), { boot, sequence }]))
  const isNews = ({ signer, body }: Beacon) => {
    const mark = marks.get(hex(signer))
    return mark === undefined || isNewer(body, mark)
  }
  return beacons.filter(isNews).map(({ bytes }) => bytes)
}

const unexpected = (frame: SyncFrame): MeshError => new MeshError('malformed', `a ${frame[0]} frame where none belongs`)

// A member's side of asking: answers APs on the LAN that are in no mesh yet, and keeps who waits to be let in until an admin
// has compared the code and approved, or the mesh is open and lets in anyone.
import { randomBytes } from 'node:crypto'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { Allowances } from '../../protocols/allowance.js'
import { codeOf, isCommitted, NONCE_BYTES } from '../../protocols/asking.js'
import { apKey } from '../../protocols/bytes.js'
import { MeshError } from '../../protocols/error.js'
import { MAX_ASK_FRAME } from '../../protocols/limits.js'
import type { Approval } from '../../protocols/ticket.js'
import { ASK, askRequest, askReveal } from '../../protocols/wire.js'
import { exchange, Frames } from './frames.js'
import { lanService } from './host.js'

/** Who waits at one time. There is no telling a flood from a delivery of boxes, so who comes first waits first. */
const MOST = 16
/** One that has not asked again for so long is gone, in milliseconds: three times what an asker takes to come back. */
const GONE_AFTER = 60_000
/** Milliseconds for one frame, and for a whole exchange. */
const DEADLINE = 5000
const TOTAL = 10_000
/**
 * Codes. Who sits between an AP and this one could ask again and again until the code here is the one that the AP shows: with
 * these, an hour of that is 400 tries of a million.
 */
const CODES = { burst: 32, perSecond: 0.1 }

export interface Request {
  readonly ap: string
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly code: string
  /** IP address. */
  readonly address: string
  /** Milliseconds since 1970. */
  readonly since: number
}

interface WaitingRequest extends Request {
  heardAt: number
  approval: Approval | undefined
}

interface Dependencies {
  readonly host: Libp2p
  readonly self: { key: Uint8Array; name: string }
  readonly meshKey: Uint8Array
  readonly mdns: boolean
  /** Whether this AP is a member, and can speak for its mesh. */
  isIn(): boolean
  /** What lets an AP in at once, where the mesh is open. */
  openTo(ap: Uint8Array): Approval | undefined
  now(): number
  onAsked(request: Request): void
}

export class Asks {
  private readonly waiting = new Map<string, WaitingRequest>()
  private readonly codes = new Allowances(CODES)
  private readonly service: ReturnType<typeof lanService>

  constructor(private readonly its: Dependencies) {
    this.service = lanService(its.host)
  }

  async start(): Promise<void> {
    await this.its.host.handle(ASK, (stream, connection) => this.answer(stream, connection), { maxInboundStreams: 2 })
    if (this.its.mdns) await this.service.start()
  }

  async stop(): Promise<void> {
    if (this.its.mdns) await this.service.stop()
  }

  /** Who waits to be let in, the first one first. */
  requests(): readonly Request[] {
    this.dropTheGone()
    return [...this.waiting.values()].filter(({ approval }) => approval === undefined)
  }

  /** Gives a waiting AP what lets it in. @throws MeshError `not-waiting` */
  approve(ap: string, approval: Approval): Request {
    this.dropTheGone()
    const request = this.waiting.get(ap)
    if (request === undefined) throw new MeshError('not-waiting', `AP ${ap} does not ask to be let in here any more`)
    request.approval = approval
    return request
  }

  private async answer(stream: Stream, connection: Connection): Promise<void> {
    const address = connection.remoteAddr.toString().split('/')[2] ?? ''
    if (!this.its.isIn()) return stream.abort(new Error('not now'))
    const ap = connection.remotePeer.toString()
    await exchange(stream, async () => {
      const frames = new Frames(stream, MAX_ASK_FRAME, DEADLINE, TOTAL)
      const request = await frames.read(askRequest)
      if (request[0] === 'look') await frames.write(['mesh', this.its.meshKey, this.its.self.name])
      else if (request[0] === 'poll') await frames.write(this.stateOf(ap))
      else await this.takeIn(frames, ap, address, request[1], { name: request[2], labels: request[3] })
    })
  }

  private stateOf(ap: string): unknown[] {
    const request = this.waiting.get(ap)
    if (request === undefined) return ['unknown']
    request.heardAt = performance.now()
    return request.approval === undefined ? ['waiting'] : ['let-in', request.approval.grant, request.approval.admission]
  }

  private async takeIn(
    frames: Frames,
    ap: string,
    address: string,
    commitment: Uint8Array,
    about: Pick<Request, 'name' | 'labels'>,
  ): Promise<void> {
    if (!this.hasRoomFor(ap)) return frames.write(['refused', `${MOST} others are waiting to be let in`])
    if (!this.codes.take('', performance.now()))
      return frames.write(['refused', 'too many have asked; ask again later'])
    const memberNonce = new Uint8Array(randomBytes(NONCE_BYTES))
    await frames.write(['asked', memberNonce])
    const [, askerNonce] = await frames.read(askReveal)
    // Others may have come meanwhile.
    if (!isCommitted(commitment, askerNonce) || !this.hasRoomFor(ap))
      throw new MeshError('malformed', 'a number that is not the one that was said before')
    const asker = apKey(ap)
    const { meshKey, self } = this.its
    const code = codeOf({ meshKey, asker, member: self.key, askerNonce, memberNonce })
    const approval = this.its.openTo(asker)
    const request = { ap, ...about, code, address, since: this.its.now(), heardAt: performance.now(), approval }
    this.waiting.set(ap, request)
    await frames.write(['waiting'])
    if (approval === undefined) this.its.onAsked(request)
  }

  private hasRoomFor(ap: string): boolean {
    this.dropTheGone()
    return this.waiting.has(ap) || this.waiting.size < MOST
  }

  private dropTheGone(): void {
    const now = performance.now()
    for (const [ap, { heardAt }] of this.waiting) if (now - heardAt > GONE_AFTER) this.waiting.delete(ap)
  }
}

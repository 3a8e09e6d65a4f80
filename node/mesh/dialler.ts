// Keeps an AP connected to the others: knows their addresses, dials them, and redials for ever with capped backoff.
import type { Multiaddr } from '@multiformats/multiaddr'
import { multiaddr } from '@multiformats/multiaddr'
import { connectionTo, type Host, peerId } from './host.js'

/** Milliseconds: first wait after a failed dial, doubling up to the cap, so that an AP that returns is found within it. */
const BACKOFF_FIRST = 500
const BACKOFF_CAP = 15_000
/** Of two APs the one with the smaller id dials at once; the other gives it this head start, or they connect twice. */
const HEAD_START = 1000
const DIAL_DEADLINE = 5000
const ADDRESSES_KEPT = 16

interface Peer {
  addresses: string[]
  dialling: boolean
  failures: number
  notBefore: number
}

export class Dialler {
  private readonly peers = new Map<string, Peer>()
  private timer: NodeJS.Timeout | undefined

  constructor(
    private readonly host: Host,
    private readonly self: string,
    /** Whom to stay connected to: the other members, or any known peer while this AP is not yet in. */
    private readonly isWanted: (ap: string) => boolean,
    private readonly onAddresses: () => void,
  ) {
    host.addEventListener('peer:discovery', ({ detail }) => {
      this.learn(detail.id.toString(), detail.multiaddrs.map(String))
    })
    host.addEventListener('peer:disconnect', ({ detail }) => {
      const peer = this.peers.get(detail.toString())
      if (peer !== undefined) Object.assign(peer, { failures: 0, notBefore: this.headStart(detail.toString(), 100) })
    })
  }

  start(): void {
    this.timer = setInterval(() => this.dialAll(), 250)
  }

  stop(): void {
    clearInterval(this.timer)
  }

  /** Known addresses by AP id. */
  addresses(): Record<string, string[]> {
    return Object.fromEntries([...this.peers].map(([ap, { addresses }]) => [ap, addresses]))
  }

  /** Adds addresses of an AP, newest first; with or without a trailing `/p2p/…`. Unreadable ones are left out. */
  learn(ap: string, addresses: readonly string[]): void {
    if (ap === this.self) return
    const usable = addresses.map((address) => address.replace(/\/p2p\/[^/]+$/, '')).filter(isDialable)
    const peer = this.peers.get(ap) ?? { addresses: [], dialling: false, failures: 0, notBefore: this.headStart(ap, 0) }
    const fresh = usable.filter((address) => !peer.addresses.includes(address))
    this.peers.set(ap, peer)
    if (fresh.length === 0) return
    peer.addresses = [...fresh, ...peer.addresses].slice(0, ADDRESSES_KEPT)
    this.onAddresses()
  }

  /** Dials an AP now, or uses the connection that is there. @throws when none of its addresses answers in time */
  async connect(ap: string, signal: AbortSignal): Promise<void> {
    if (connectionTo(this.host, ap) !== undefined) return
    const addresses = this.multiaddrs(ap)
    if (addresses.length === 0) throw new Error(`no address of ${ap} is known`)
    await this.host.dial(addresses, { signal })
  }

  /** The addresses of an AP, for a connection of one's own. */
  multiaddrs(ap: string): Multiaddr[] {
    return (this.peers.get(ap)?.addresses ?? []).map((address) => multiaddr(`${address}/p2p/${ap}`))
  }

  private headStart(ap: string, ms: number): number {
    return performance.now() + (this.self < ap ? ms : Math.max(ms, HEAD_START))
  }

  private dialAll(): void {
    for (const [ap, peer] of this.peers) {
      if (peer.dialling || performance.now() < peer.notBefore || !this.isWanted(ap)) continue
      if (peer.addresses.length === 0 || this.host.getConnections(peerId(ap)).length > 0) continue
      peer.dialling = true
      this.connect(ap, AbortSignal.timeout(DIAL_DEADLINE))
        .then(() => {
          peer.failures = 0
        })
        .catch(() => {
          const wait = Math.min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** peer.failures++)
          peer.notBefore = performance.now() + wait * (0.75 + Math.random() / 2)
        })
        .finally(() => {
          peer.dialling = false
        })
    }
  }
}

function isDialable(address: string): boolean {
  try {
    const names = multiaddr(address)
      .getComponents()
      .map(({ name }) => name)
    return names.includes('tcp') && !names.includes('p2p-circuit')
  } catch {
    return false
  }
}

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
/** How often is looked who is to be dialled, and which addresses are to be kept, in milliseconds. */
const LOOK_EVERY = 500
const ADDRESSES_KEPT = 16
/** Anyone on the LAN can announce any number of peers. */
const PEERS_KEPT = 1000

interface Peer {
  addresses: string[]
  /** What libp2p knew the last time it told. */
  heard: readonly string[]
  dialling: boolean
  failures: number
  notBefore: number
}

export class Dialler {
  private readonly peers = new Map<string, Peer>()
  private readonly connections = new Set<string>()
  private timer: NodeJS.Timeout | undefined
  private told = ''

  constructor(
    private readonly host: Host,
    private readonly self: string,
    /** Whom to stay connected to: those it has to do with, or any known peer while this AP is not yet in. */
    private readonly isWanted: (ap: string) => boolean,
    /** Called with the addresses of those, by AP id, when they have changed. */
    private readonly onAddresses: (known: Record<string, string[]>) => void,
    /** Where one is to be found of whom this dialler was told nothing. */
    private readonly whereabouts: (ap: string) => readonly string[] = () => [],
  ) {
    // Not `peer:discovery`: that comes once a peer, and not for one that announces itself at another address later.
    host.addEventListener('peer:update', ({ detail: { peer } }) => {
      this.hear(
        peer.id.toString(),
        peer.addresses.map(({ multiaddr }) => multiaddr.toString()),
      )
    })
    host.addEventListener('connection:open', ({ detail }) => {
      this.connections.add(detail.remotePeer.toString())
    })
    host.addEventListener('connection:close', ({ detail }) => {
      const ap = detail.remotePeer.toString()
      if (connectionTo(host, ap) !== undefined) return // what is left for bulk is no connection
      this.connections.delete(ap)
      const peer = this.peers.get(ap)
      if (peer !== undefined) Object.assign(peer, { failures: 0, notBefore: this.headStart(ap, 100) })
    })
  }

  start(): void {
    this.timer = setInterval(() => this.look(), LOOK_EVERY)
  }

  stop(): void {
    clearInterval(this.timer)
    this.tell() // what was learned a moment ago
  }

  /** AP ids of all peers with a connection, members or not. */
  connected(): ReadonlySet<string> {
    return this.connections
  }

  /** Known addresses by AP id. */
  addresses(): Record<string, string[]> {
    return Object.fromEntries([...this.peers].map(([ap, { addresses }]) => [ap, addresses]))
  }

  /** Adds addresses of an AP, newest first; with or without a trailing `/p2p/…`. Unreadable ones are left out. */
  learn(ap: string, addresses: readonly string[]): void {
    if (ap === this.self || (!this.peers.has(ap) && !(isPeerId(ap) && this.hasRoomForOne()))) return
    const peer = this.peers.get(ap) ?? this.newPeer(ap)
    const bare = new Set(addresses.map(bareAddress))
    const fresh = [...bare].filter((address) => !peer.addresses.includes(address) && isDialable(address))
    this.peers.set(ap, peer)
    if (fresh.length === 0) return
    peer.addresses = [...fresh, ...peer.addresses].slice(0, ADDRESSES_KEPT)
  }

  // libp2p tells all that it knows of a peer, old addresses among it, whenever anything changes; new is what it did not tell
  // the last time. (Its own `previous` has the new ones too.)
  private hear(ap: string, addresses: readonly string[]): void {
    const before = this.peers.get(ap)?.heard
    this.learn(
      ap,
      addresses.filter((address) => !before?.includes(address)),
    )
    const peer = this.peers.get(ap)
    if (peer !== undefined) peer.heard = addresses
  }

  private hasRoomForOne(): boolean {
    if (this.peers.size < PEERS_KEPT) return true
    const unwanted = [...this.peers.keys()].find((known) => !this.isWanted(known))
    return unwanted !== undefined && this.peers.delete(unwanted)
  }

  /** Dials an AP now, or uses the connection that is there. @throws when none of its addresses answers in time */
  async connect(ap: string, signal: AbortSignal): Promise<void> {
    if (connectionTo(this.host, ap) !== undefined) return
    const addresses = this.multiaddrs(ap)
    if (addresses.length === 0) throw new Error(`no address of ${ap} is known`)
    // Where only a connection for bulk is left, libp2p would hand that out again.
    await this.host.dial(addresses, { signal, force: this.host.getConnections(peerId(ap)).length > 0 })
  }

  /** The addresses of an AP, for a connection of one's own. */
  multiaddrs(ap: string): Multiaddr[] {
    const known = this.peers.get(ap)?.addresses ?? []
    const addresses = known.length > 0 ? known : this.whereabouts(ap).map(bareAddress).filter(isDialable)
    return addresses.map((address) => multiaddr(`${address}/p2p/${ap}`))
  }

  private newPeer(ap: string): Peer {
    return { addresses: [], heard: [], dialling: false, failures: 0, notBefore: this.headStart(ap, 0) }
  }

  private headStart(ap: string, ms: number): number {
    return performance.now() + (this.self < ap ? ms : Math.max(ms, HEAD_START))
  }

  // Not only when an address is new: who it belongs to may become wanted later. Strangers come and go, and must not make this AP
  // write to its disk.
  private tell(): void {
    const wanted = Object.entries(this.addresses()).filter(([ap]) => this.isWanted(ap))
    const text = JSON.stringify(wanted)
    if (text !== this.told) this.onAddresses(Object.fromEntries(wanted))
    this.told = text
  }

  private look(): void {
    this.tell()
    for (const [ap, peer] of this.peers) {
      if (peer.dialling || performance.now() < peer.notBefore || !this.isWanted(ap)) continue
      if (peer.addresses.length === 0 || this.connections.has(ap)) continue
      peer.dialling = true
      this.connect(ap, AbortSignal.timeout(DIAL_DEADLINE))
        .then(() => {
          peer.failures = 0
        })
        .catch(() => {
          const wait = Math.min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** peer.failures++)
          peer.notBefore = performance.now() + wait * (0.75 + Math.random() / 2)
          // Two addresses that do not answer at all use up the deadline; the next attempt begins with others.
          peer.addresses.push(...peer.addresses.splice(0, 2))
        })
        .finally(() => {
          peer.dialling = false
        })
    }
  }
}

const bareAddress = (address: string): string => address.replace(/\/p2p\/[^/]+$/, '')

function isPeerId(text: string): boolean {
  try {
    return peerId(text).toString() === text
  } catch {
    return false
  }
}

/** True for a readable address of a TCP listener, whatever its id. */
export function isDialable(address: string): boolean {
  try {
    const names = multiaddr(address)
      .getComponents()
      .map(({ name }) => name)
    return names.includes('tcp') && !names.includes('p2p-circuit')
  } catch {
    return false
  }
}

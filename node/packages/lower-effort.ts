// That packages yield to what the AP routes. The packets of connections by which they leave say that they may wait for all
// others: for the queues of routers by their DSCP, the lower effort of RFC 8622, and for those of this machine by their priority.
// Node cannot set either on a socket, so the firewall does, which knows a connection by its other end.
import type { Connection } from '@libp2p/interface'
import type { Logger } from 'pino'
import { messageOf } from '../../protocols/error.js'
import { type Chain, fillChain, removeChain } from '../iptables.js'

/** Milliseconds between two changes of the firewall. */
const PACE = 500
/** What a crash left can stay for so many milliseconds: a node that starts needs the machine for itself. */
const AFTER_START = 3000

// The class is TC_PRIO_BULK of linux/pkt_sched.h, which queues with bands put into the last of them.
const MARKS = ['DSCP --set-dscp 1', 'CLASSIFY --set-class 0:2']

interface Family {
  readonly ip: 'ip4' | 'ip6'
  readonly chain: Chain
  /** What the chain is filled with; undefined where that is not known, as before the first time. */
  filled?: string | undefined
  /** Why it could not be the last time that there was something to mark. */
  failure?: string | undefined
}

export interface LowerEffortOptions {
  readonly self: string
  readonly log: Logger
}

export class LowerEffort {
  private readonly connections = new Set<Connection>()
  private readonly families: readonly Family[]
  private cleaning: NodeJS.Timeout | undefined
  private timer: NodeJS.Timeout | undefined
  private changedAt = Number.NEGATIVE_INFINITY
  private changes = Promise.resolve()
  private isOn = false
  private isSaid = false

  constructor(private readonly options: LowerEffortOptions) {
    // Several nodes of one machine have a chain each. How an id begins is the same for all.
    const chain = {
      table: 'mangle',
      name: `DROPMESH-LE-${options.self.slice(-12)}`,
      from: ['OUTPUT', '-p', 'tcp'],
    } as const
    this.families = [
      { ip: 'ip4', chain: { ...chain, program: 'iptables' } },
      { ip: 'ip6', chain: { ...chain, program: 'ip6tables' } },
    ]
  }

  /** Begins, where this node may change the firewall, and removes what a crash left there. */
  start(): void {
    this.isOn = process.platform === 'linux' && process.getuid?.() === 0
    if (!this.isOn) return
    this.cleaning = setTimeout(() => this.schedule(), AFTER_START).unref()
  }

  /** Marks what leaves by a connection, from soon on until it closes. One that this AP dialled has no other end of its own. */
  add(connection: Connection): void {
    const { direction, status } = connection
    if (!this.isOn || direction !== 'inbound' || status !== 'open' || this.connections.has(connection)) return
    this.connections.add(connection)
    connection.addEventListener('close', () => {
      if (this.connections.delete(connection)) this.schedule()
    })
    this.schedule()
  }

  /** Why packages leave like anything else; undefined where they do not, or none has left yet. */
  get failure(): string | undefined {
    return this.families.find(({ failure }) => failure !== undefined)?.failure
  }

  /** Leaves nothing in the firewall. */
  async stop(): Promise<void> {
    if (!this.isOn) return
    this.isOn = false
    clearTimeout(this.cleaning)
    clearTimeout(this.timer)
    this.connections.clear()
    await this.change()
  }

  private schedule(): void {
    this.timer ??= setTimeout(
      () => {
        this.timer = undefined
        void this.change()
      },
      Math.max(0, this.changedAt + PACE - performance.now()),
    ).unref()
  }

  private change(): Promise<void> {
    this.changedAt = performance.now()
    this.changes = this.changes.then(async () => {
      await Promise.all(this.families.map((family) => this.fill(family)))
      if (this.failure === undefined || this.isSaid) return
      this.isSaid = true
      this.options.log.warn({ reason: this.failure }, 'packages cannot be marked as lower effort')
    })
    return this.changes
  }

  private async fill(family: Family): Promise<void> {
    const rules = [...this.connections].flatMap((connection) => rulesFor(connection, family.ip))
    const filled = rules.join('\n')
    if (filled === family.filled) return
    const change = rules.length > 0 ? fillChain(family.chain, rules) : removeChain(family.chain)
    const why = await change.catch(messageOf)
    family.filled = why === undefined ? filled : undefined
    // Where there is nothing to mark, there may well be no firewall.
    if (rules.length > 0) family.failure = why
  }
}

function rulesFor({ remoteAddr }: Connection, ip: Family['ip']): string[] {
  const component = (wanted: string) => remoteAddr.getComponents().find(({ name }) => name === wanted)?.value
  const [address, port] = [component(ip), component('tcp')]
  if (address === undefined || port === undefined) return []
  return MARKS.map((mark) => `-d ${address} -p tcp --dport ${port} -j ${mark}`)
}

// The node's side of the watchdog: starts it, finds the one that is there, and tells it until when containers may run.
import { spawn } from 'node:child_process'
import { connect, type Socket } from 'node:net'
import { MeshError } from '../../protocols/error.js'
import { programFile } from '../root.js'
import type { WatchdogReply, WatchdogRequest, WatchedContainers } from './watchdog.js'

const PROGRAM = programFile('watchdog')

/** What it reads of /proc is garbage at once; V8 would let a hundred megabytes of it pile up. */
const SMALL = ['--max-old-space-size=16', '--max-semi-space-size=1']

/** Milliseconds: for its start on a busy AP, and for an answer. */
const START_PATIENCE = 5000
const ANSWER_PATIENCE = 1000

type Unnumbered<T> = T extends unknown ? Omit<T, 'n'> : never

export class Guard {
  /** What the watchdog has acknowledged, by key. */
  readonly guarded = new Map<string, WatchedContainers>()
  private socket: Socket | undefined
  private connecting: Promise<Socket> | undefined
  private count = 0
  private readonly waiting = new Map<number, () => void>()

  /** @param path of the watchdog's socket @param engine path of the engine's socket */
  constructor(
    private readonly path: string,
    private readonly engine: string,
  ) {}

  /** Finds the watchdog that an earlier life of the node has left, if it is still there. */
  async find(): Promise<void> {
    this.socket = await this.open().catch(() => undefined)
  }

  /**
   * Resolves once the watchdog will kill these containers at `until`, starting itself if need be.
   * @param starting whether the engine is about to be asked to start them, or has not answered yet
   * @throws MeshError `no-watchdog`
   */
  async set(key: string, ids: readonly string[], until: number, starting: boolean): Promise<void> {
    await this.ask({ key, ids: [...ids], until, starting })
    this.guarded.set(key, { ids, until, starting })
  }

  /** The containers of this key are gone. */
  async drop(key: string): Promise<void> {
    this.guarded.delete(key)
    if (this.socket !== undefined) await this.ask({ drop: key })
  }

  /** Parts with the watchdog, which goes on. */
  close(): void {
    const { socket } = this
    this.socket = undefined
    socket?.destroy()
  }

  private async ask(request: Unnumbered<WatchdogRequest>): Promise<void> {
    this.connecting ??= this.reach().finally(() => {
      this.connecting = undefined
    })
    const socket = await this.connecting
    const n = ++this.count
    await new Promise<void>((resolve, reject) => {
      const fail = () => {
        this.waiting.delete(n)
        socket.destroy()
        reject(new MeshError('no-watchdog', 'the watchdog does not answer'))
      }
      const timer = setTimeout(fail, ANSWER_PATIENCE)
      socket.once('close', fail)
      this.waiting.set(n, () => {
        clearTimeout(timer)
        socket.off('close', fail)
        resolve()
      })
      socket.write(`${JSON.stringify({ n, ...request })}\n`)
    })
  }

  private async reach(): Promise<Socket> {
    if (this.socket !== undefined) return this.socket
    const found = await this.open().catch(() => undefined)
    if (found !== undefined) {
      this.socket = found
      return found
    }
    // In a session of its own, so that what ends the node's does not reach it.
    const child = spawn(process.execPath, [...SMALL, PROGRAM, this.path, this.engine], {
      detached: true,
      stdio: 'ignore',
      cwd: '/',
    })
    child.on('error', () => {})
    child.unref()
    const mustAnswerBy = performance.now() + START_PATIENCE
    for (;;) {
      const socket = await this.open().catch(() => undefined)
      if (socket !== undefined) {
        this.socket = socket
        return socket
      }
      if (performance.now() > mustAnswerBy) throw new MeshError('no-watchdog', 'the watchdog does not start')
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  /** Connects, and learns what is guarded already. */
  private open(): Promise<Socket> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.path)
      socket.setEncoding('utf8')
      socket.setMaxListeners(0) // one a request that is under way
      // The kernel takes calls for a watchdog that is stopped.
      const timer = setTimeout(() => socket.destroy(), ANSWER_PATIENCE)
      socket.once('close', () => clearTimeout(timer))
      let rest = ''
      socket.on('data', (text) => {
        const lines = (rest + text).split('\n')
        rest = lines.pop()!
        for (const line of lines) {
          const reply = JSON.parse(line) as WatchdogReply
          if ('guards' in reply) {
            this.guarded.clear()
            for (const [key, guarded] of Object.entries(reply.guards)) this.guarded.set(key, guarded)
            clearTimeout(timer)
            socket.unref()
            resolve(socket)
          } else {
            this.waiting.get(reply.n)?.()
            this.waiting.delete(reply.n)
          }
        }
      })
      socket.on('error', reject)
      socket.on('close', () => {
        if (this.socket === socket) {
          this.socket = undefined
          // The next watchdog must end what this one would have, be its time over or not.
          const lost = [...this.guarded]
          this.guarded.clear()
          for (const [key, { ids, until, starting }] of lost) this.set(key, ids, until, starting).catch(() => {})
        }
        reject(new Error('closed'))
      })
    })
  }
}

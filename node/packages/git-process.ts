// Git as a process: with settings of its own and nobody to ask, without a shell, and gone when it is told to.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { printable } from '../../protocols/compose-remarks.js'
import { MeshError } from '../../protocols/error.js'
import { collect } from './tar.js'

/** Lines of progress that are passed on, and how often, in milliseconds, of one that is written over and over. */
const MAX_LINES = 1000
const LINE_EVERY = 1000
const MAX_LINE = 1024

/** Bytes of git's last words that are kept. */
const LAST_WORDS = 4096

/** What the environment of a node may say to git: how to get out, and whom to trust. Nothing of what it should run. */
const PASSED = [
  'PATH',
  ...['http_proxy', 'https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY', 'no_proxy', 'NO_PROXY'],
  ...['SSL_CERT_FILE', 'SSL_CERT_DIR', 'GIT_SSL_CAINFO'],
]

/** How a git ended, and what it said last. */
interface Ended {
  readonly status: number
  readonly words: string
}

type Running = ChildProcessByStdio<null, Readable, Readable> & { ended: Promise<Ended> }

export interface GitOptions {
  /** The repository. */
  readonly dir: string
  /** An empty folder. */
  readonly home: string
  readonly settings: Readonly<Record<string, string>>
  /** Protocols that it may speak, whatever a server says. */
  readonly protocols: readonly string[]
  /** Ends every git; its reason is what the call throws then. */
  readonly signal: AbortSignal
}

export class Git {
  private readonly environment: NodeJS.ProcessEnv

  constructor(private readonly options: GitOptions) {
    const { dir, home, settings, protocols } = options
    // By variables: what is an argument, every user of the machine can see.
    const pairs = Object.entries(settings).flatMap(([key, value], i) => [
      [`GIT_CONFIG_KEY_${i}`, key],
      [`GIT_CONFIG_VALUE_${i}`, value],
    ])
    this.environment = {
      ...Object.fromEntries(PASSED.map((name) => [name, process.env[name]])),
      ...Object.fromEntries(pairs),
      GIT_CONFIG_COUNT: String(Object.keys(settings).length),
      HOME: home,
      GIT_DIR: dir,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
      GIT_ATTR_NOSYSTEM: '1',
      GIT_TERMINAL_PROMPT: '0',
      GIT_ALLOW_PROTOCOL: protocols.join(':'),
      LC_ALL: 'C',
    }
  }

  /** Starts git and gives its output as it comes. Who reads it to its end has to see how it `ended`. */
  start(args: readonly string[], onLine?: (line: string) => void): Running {
    const { dir, signal } = this.options
    if (signal.aborted) throw signal.reason
    const options = { cwd: dir, env: this.environment, detached: true } as const
    const child = spawn('git', args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] }) as Running
    const words = new Words(onLine)
    child.stderr.on('data', (bytes: Buffer) => words.take(String(bytes)))
    const onAbort = () => kill(child)
    signal.addEventListener('abort', onAbort)
    child.ended = (async () => {
      try {
        const [code] = (await once(child, 'close')) as [number | null]
        if (signal.aborted) throw signal.reason
        return { status: code ?? -1, words: words.last }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
        const what = 'git is not installed on this AP: install it (Debian: apt-get install git), or publish a folder'
        throw new MeshError('no-git', what)
      } finally {
        signal.removeEventListener('abort', onAbort)
      }
    })()
    child.ended.catch(() => {}) // it is awaited later
    return child
  }

  run(args: readonly string[], onLine?: (line: string) => void): Promise<Ended> {
    const child = this.start(args, onLine)
    child.stdout.resume()
    return child.ended
  }

  /** What git answers, which is short; nothing where it has no answer. */
  async tell(args: readonly string[]): Promise<string> {
    const child = this.start(args)
    const text = String(await collect(child.stdout))
    return (await child.ended).status === 0 ? text.trim() : ''
  }
}

/** Ends git and what it started. */
export function kill(child: Running): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {} // it ended meanwhile
}

/** What git says on its stderr: for a person as it comes, and the end of it for finding out what went wrong. */
class Words {
  last = ''
  private line = ''
  private lines = 0
  private at = 0

  constructor(private readonly onLine: (line: string) => void = () => {}) {}

  take(text: string): void {
    this.last = (this.last + text).slice(-LAST_WORDS)
    for (const part of text.split(/(?<=[\r\n])/)) {
      this.line = (this.line + part).slice(0, MAX_LINE)
      if (!/[\r\n]$/.test(part)) continue
      this.pass(printable(this.line.trim()), part.endsWith('\n'))
      this.line = ''
    }
  }

  private pass(line: string, isWhole: boolean): void {
    const now = performance.now()
    if (line === '' || this.lines >= MAX_LINES || (!isWhole && now - this.at < LINE_EVERY)) return
    this.at = now
    this.lines++
    this.onLine(line)
  }
}

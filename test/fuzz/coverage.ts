// Which branches of some scripts ran, by V8's own precise coverage. To be started before they are loaded.
import { type Profiler, Session } from 'node:inspector'

/** A function: a 1 for each of its characters that ran, and where its branches begin, by where they begin and end. */
interface Reached {
  readonly ran: Uint8Array
  readonly branches: Map<string, number>
}

export class Coverage {
  private readonly session = new Session()
  /** By URL of the script, and where in it the function begins. */
  private reachedOf = new Map<string, Reached>()

  /** @param isWatched by the URL of a script */
  constructor(private readonly isWatched: (url: string) => boolean) {
    this.session.connect()
    this.session.post('Profiler.enable')
    this.session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  /** Whether what ran since the last call of this or of `note` was never noted. */
  isNew(): boolean {
    return this.look(false)
  }

  /** The same, and notes it. */
  note(): boolean {
    return this.look(true)
  }

  /** Forgets what was noted. */
  clear(): void {
    this.isNew()
    this.reachedOf = new Map()
  }

  /** Of the branches that V8 told of in the scripts whose URL ends so. */
  reached(ends: readonly string[]): { ran: number; of: number } {
    const all = [...this.reachedOf].filter(([at]) => ends.some((end) => at.includes(`${end}:`)))
    const branches = all.flatMap(([, { ran, branches }]) => [...branches.values()].map((start) => ran[start] === 1))
    return { ran: branches.filter((ran) => ran).length, of: branches.length }
  }

  /** From here on all runs at its full speed. */
  stop(): void {
    this.session.post('Profiler.stopPreciseCoverage')
    this.session.disconnect()
  }

  private look(note: boolean): boolean {
    let isNew = false
    // In one thread the answer is there when `post` returns.
    this.session.post('Profiler.takePreciseCoverage', (_, { result }) => {
      for (const { url, functions } of result) {
        if (!this.isWatched(url)) continue
        for (const one of functions) isNew = this.lookAt(url, one, note) || isNew
      }
    })
    return isNew
  }

  private lookAt(url: string, { ranges }: Profiler.FunctionCoverage, note: boolean): boolean {
    const { startOffset: from, endOffset, count } = ranges[0]!
    const at = `${url}:${from}`
    const reached = this.reachedOf.get(at) ?? { ran: new Uint8Array(endOffset - from), branches: new Map() }
    if (note) {
      this.reachedOf.set(at, reached)
      for (const { startOffset, endOffset } of ranges) {
        reached.branches.set(`${startOffset}-${endOffset}`, startOffset - from)
      }
    }
    if (count === 0) return false
    // Ranges lie within each other, the outer ones first: the innermost one says whether a character ran.
    const now = new Uint8Array(reached.ran.length)
    for (const { startOffset, endOffset, count } of ranges) {
      now.fill(count > 0 ? 1 : 0, startOffset - from, endOffset - from)
    }
    let isNew = false
    for (let i = 0; i < now.length; i++) {
      if (now[i] === 0 || reached.ran[i] === 1) continue
      if (!note) return true
      isNew = true
      reached.ran[i] = 1
    }
    return isNew
  }
}

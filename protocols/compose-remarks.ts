// What is said of a manifest while it is read: what is wrong with it, and what of it is passed over or stands for something
// else. Each remark has its place, so that a person finds it; all are kept, so that a person sees them at once.
import { MeshError } from './error.js'

/** Lines of an error message. `problems` has them all. */
export const MAX_SHOWN = 100

export interface Remark {
  file: string
  line: number
  column: number
  /** `services.web.ports[0]`; empty where the whole file is meant. */
  path: string
  message: string
}

/** `compose.yaml:7:5: services.web.privileged: not supported…`. */
export const remarkText = ({ file, line, column, path, message }: Remark): string =>
  [`${file}:${line}:${column}`, ...(path ? [path] : []), message].join(': ')

const inOrder = (remarks: readonly Remark[]): Remark[] =>
  remarks
    .map((remark) => ({ ...remark, path: printable(remark.path), message: printable(remark.message) }))
    .sort((a, b) => (a.file === b.file ? a.line - b.line : a.file < b.file ? -1 : 1))

/** All that is wrong with a manifest, one line a problem. */
export class ManifestError extends MeshError {
  readonly problems: Remark[]

  constructor(problems: readonly Remark[]) {
    const sorted = inOrder(problems)
    const lines = sorted.slice(0, MAX_SHOWN).map(remarkText)
    if (sorted.length > MAX_SHOWN) lines.push(`… and ${sorted.length - MAX_SHOWN} more`)
    super('manifest', lines.join('\n'))
    this.name = 'ManifestError'
    this.problems = sorted
  }
}

/** A manifest may be a stranger's, and a terminal obeys control characters. */
export const printable = (text: string): string =>
  text.replace(/[\p{C}\u2028\u2029]/gu, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`)

/** What has been said so far, each remark once, however often it was come across. */
export class Remarks {
  private wrong = new Map<string, Remark>()
  private noted = new Map<string, Remark>()

  refuse(remark: Remark): void {
    this.wrong.set(JSON.stringify(remark), remark)
  }

  note(remark: Remark): void {
    this.noted.set(JSON.stringify(remark), remark)
  }

  get problems(): Remark[] {
    return [...this.wrong.values()]
  }

  get notes(): Remark[] {
    return inOrder([...this.noted.values()])
  }

  /** What `read` says is kept apart, until it is known that it matters: `take` makes it count. */
  apart<T>(read: () => T): { is: T; take: () => void } {
    const { wrong, noted } = this
    this.wrong = new Map()
    this.noted = new Map()
    try {
      const is = read()
      const said = [this.wrong, this.noted]
      const take = () => {
        for (const [key, remark] of said[0]!) this.wrong.set(key, remark)
        for (const [key, remark] of said[1]!) this.noted.set(key, remark)
      }
      return { is, take }
    } finally {
      this.wrong = wrong
      this.noted = noted
    }
  }
}

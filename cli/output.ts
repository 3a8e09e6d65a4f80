// What a person or a script sees: tables or one JSON document on stdout, everything else on stderr.
import Table from 'cli-table3'
import pico from 'picocolors'

export interface Printed {
  json?: boolean
}

/** Colour where a person looks on: a terminal without NO_COLOR. */
export const colour = pico.createColors(pico.isColorSupported && process.stdout.isTTY === true)

export const printJson = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)

export const print = (text: string): void => void process.stdout.write(`${text}\n`)

/** Progress and warnings. */
export const say = (text: string): void => void process.stderr.write(`${text}\n`)

/** A table without borders, in the manner of `docker ps`. */
export function printTable(head: string[], rows: string[][]): void {
  const none = {
    top: '',
    'top-mid': '',
    'top-left': '',
    'top-right': '',
    bottom: '',
    'bottom-mid': '',
    'bottom-left': '',
  }
  const rest = {
    'bottom-right': '',
    left: '',
    'left-mid': '',
    mid: '',
    'mid-mid': '',
    right: '',
    'right-mid': '',
    middle: '  ',
  }
  const table = new Table({
    head,
    chars: { ...none, ...rest },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 1 },
  })
  table.push(...rows)
  print(
    table
      .toString()
      .split('\n')
      .map((line) => line.trimEnd())
      .join('\n'),
  )
}

const GOOD = new Set(['alive', 'healthy', 'running'])
const BAD = new Set(['dead', 'failed', 'unhealthy'])

/** A state in the colour of what it means. */
export const paintState = (state: string): string =>
  GOOD.has(state) ? colour.green(state) : BAD.has(state) ? colour.red(state) : colour.yellow(state)

/** `12.3 MB`. */
export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`

/** `3 s`, `12 min`, `5 h`, `8 d` ago. */
export function ago(iso: string | null): string {
  if (iso === null) return 'never'
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(iso)) / 1000))
  if (seconds < 120) return `${seconds} s ago`
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86_400)} d ago`
}

/** How many APs have a record on disk. */
export const held = (holders: number): string => `${holders} ${holders === 1 ? 'AP holds' : 'APs hold'} the record`

export const gib = (bytes: number): string => `${(bytes / 1024 ** 3).toFixed(1)} GiB`

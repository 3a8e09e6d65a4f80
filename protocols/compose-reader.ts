// A YAML document as values that know their lines, and readers that turn them into what they mean: a table of keys and
// readers is all that a kind of map needs. Every refusal is recorded, so that a person sees all of them at once. Knows
// nothing of which keys a chute has.
import {
  type Alias,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  Parser,
  parseDocument,
  visit,
  type YAMLMap,
} from 'yaml'
import { utf8 } from './bytes.js'
import { MeshError } from './error.js'

/** In bytes: eight times what a record can hold, and little enough to read in a second. */
const MAX_TEXT = 256 * 1024
/** Maps and lists within each other; a chute needs eight. */
const MAX_DEPTH = 64
/** Values read, aliases counted as often as they are used: a few lines of aliases can stand for billions. */
const MAX_VALUES = 20_000
/** Merges within merges; an alias can stand within its own anchor. */
const MAX_MERGES = 16
/** Lines of an error message. `problems` has them all. */
const MAX_SHOWN = 100

interface Problem {
  line: number
  /** Of YAML's own errors alone. */
  column?: number
  /** `services.web.ports[0]`; empty where the whole file is meant. */
  path: string
  message: string
}

/** All that is wrong with a manifest, one line a problem: `compose.yaml:7: services.web.privileged: not supported…`. */
export class ManifestError extends MeshError {
  readonly problems: Problem[]

  constructor(file: string, problems: Problem[]) {
    const sorted = problems
      .map((problem) => ({ ...problem, path: printable(problem.path), message: printable(problem.message) }))
      .sort((a, b) => a.line - b.line)
    const lines = sorted
      .slice(0, MAX_SHOWN)
      .map(({ line, column, path, message }) =>
        [`${file}:${line}${column === undefined ? '' : `:${column}`}`, ...(path ? [path] : []), message].join(': '),
      )
    if (sorted.length > MAX_SHOWN) lines.push(`… and ${sorted.length - MAX_SHOWN} more`)
    super('manifest', lines.join('\n'))
    this.name = 'ManifestError'
    this.problems = sorted
  }
}

/** A manifest may be a stranger's, and a terminal obeys control characters. */
export const printable = (text: string): string =>
  text.replace(/[\p{C}\u2028\u2029]/gu, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`)

// --- What YAML says, and where -----------------------------------------------------------------------------------------

type Kind = 'text' | 'number' | 'flag' | 'list' | 'map' | 'nothing'

const KINDS: Record<Kind, string> = {
  text: 'text',
  number: 'a number',
  flag: 'true or false',
  list: 'a list',
  map: 'a map',
  nothing: 'empty',
}

/** One manifest being read: where its lines begin, what its aliases stand for, what was found wrong so far. */
interface Reading {
  file: string
  lines: LineCounter
  aliases: Map<Alias, Node>
  problems: Problem[]
  values: number
}

/** A value of the manifest and where it stands: the line of its key, or of the list item. */
export class Value {
  readonly kind: Kind

  constructor(
    readonly reading: Reading,
    private readonly node: Node | null,
    readonly line: number,
    readonly path: string,
  ) {
    this.kind = kindOf(node)
    if (++reading.values > MAX_VALUES) {
      const message = `more than ${MAX_VALUES} values, counting aliases as often as they are used`
      throw new ManifestError(reading.file, [{ line, path, message }])
    }
  }

  refuse(message: string): undefined {
    this.reading.problems.push({ line: this.line, path: this.path, message })
  }

  /** Of kind text, number or flag: the text as it was written, since 1.10 is a version more often than a number. */
  text(): string | undefined {
    if (!isScalar(this.node)) return undefined
    const { value, source } = this.node
    const text = typeof value === 'string' ? value : (source ?? String(value))
    // Compose, too, takes a lone dollar sign for a mistake.
    if (text.replaceAll('$$', '').includes('$')) {
      return this.refuse('interpolation is not supported yet; write the value, or $$ for a dollar sign')
    }
    if (text.includes('\0') || /\p{Cs}/u.test(text)) return this.refuse('holds a NUL, or half a character')
    return text.replaceAll('$$', () => '$')
  }

  list(): Value[] {
    if (!isSeq(this.node)) return []
    return this.node.items.map((item, i) => this.inside(item as Node | null, item as Node | null, `${this.path}[${i}]`))
  }

  map(): Map<string, Value> {
    return isMap(this.node) ? this.entries(this.node, 0) : new Map()
  }

  private entries(map: YAMLMap, depth: number): Map<string, Value> {
    const entries = new Map<string, Value>()
    const merges: Value[] = []
    for (const pair of map.items) {
      const key = this.resolve(pair.key as Node | null)
      const name = isScalar(key) ? (typeof key.value === 'string' ? key.value : (key.source ?? '')) : '?'
      const path = [...(this.path ? [this.path] : []), name.length > 80 ? `${name.slice(0, 80)}…` : name].join('.')
      const value = this.inside(pair.value as Node | null, pair.key as Node | null, path)
      const earlier = entries.get(name)
      if (name === '<<' && isScalar(key) && key.type === 'PLAIN') merges.push(value)
      else if (!isScalar(key) || typeof key.value !== 'string') value.refuse('a key must be text: put it in quotes')
      else if (earlier) value.refuse(`given twice, first on line ${earlier.line}`)
      else entries.set(name, value)
    }
    // https://yaml.org/type/merge.html: a map's own keys come before merged ones, and earlier maps before later ones.
    for (const merge of merges.flatMap((value) => (value.kind === 'list' ? value.list() : [value]))) {
      if (!isMap(merge.node) || depth === MAX_MERGES) {
        merge.refuse(isMap(merge.node) ? 'merged too deeply' : 'a merge takes a map, or a list of maps')
        continue
      }
      for (const [name, value] of this.entries(merge.node, depth + 1)) if (!entries.has(name)) entries.set(name, value)
    }
    return entries
  }

  private inside(node: Node | null, at: Node | null, path: string): Value {
    const line = at?.range ? this.reading.lines.linePos(at.range[0]).line : this.line
    return new Value(this.reading, this.resolve(node), line, path)
  }

  private resolve(node: Node | null): Node | null {
    return isAlias(node) ? (this.reading.aliases.get(node) ?? null) : node
  }
}

function kindOf(node: Node | null): Kind {
  if (isMap(node)) return 'map'
  if (isSeq(node)) return 'list'
  const value = isScalar(node) ? node.value : null
  if (value === null) return 'nothing'
  return typeof value === 'string' ? 'text' : typeof value === 'boolean' ? 'flag' : 'number'
}

/**
 * Where a text is nested deeper than MAX_DEPTH. The parser composes a document by recursion, and where that meets the
 * end of the stack, V8 may have to compile a regular expression and abort the process instead of throwing.
 */
function depthExceeded(text: string): number | undefined {
  const parser = new Parser()
  for (const lexeme of new Lexer().lex(text)) {
    for (const _document of parser.next(lexeme));
    if (parser.stack.length > MAX_DEPTH) return parser.offset
  }
  return undefined
}

/** The root of the manifest. @throws ManifestError where the text is no single YAML document. */
export function open(text: string, file: string): Value {
  const fail = (message: string, line = 1): never => {
    throw new ManifestError(file, [{ line, path: '', message }])
  }
  if (text.length > MAX_TEXT || utf8(text).length > MAX_TEXT) {
    return fail(`longer than ${MAX_TEXT / 1024} KiB: what a chute is made of belongs into its image`)
  }
  const deep = depthExceeded(text)
  if (deep !== undefined) return fail(`nested more than ${MAX_DEPTH} deep`, text.slice(0, deep).split('\n').length)
  const reading: Reading = { file, lines: new LineCounter(), aliases: new Map(), problems: [], values: 0 }
  // Keys given twice are found in Value.entries: the parser's own search takes the square of their number.
  const document = parseDocument(text, {
    lineCounter: reading.lines,
    prettyErrors: false,
    uniqueKeys: false,
    schema: 'core',
    resolveKnownTags: false,
    logLevel: 'error',
  })
  const bad = (offset: number, message: string) => {
    const { line, col } = reading.lines.linePos(offset)
    reading.problems.push({ line, column: col, path: '', message })
  }
  // A warning is a tag or a directive that is not understood, and nothing may be ignored. Most of many errors come of the
  // first.
  for (const { code, pos, message } of [...document.errors, ...document.warnings].slice(0, MAX_SHOWN)) {
    bad(pos[0], code === 'MULTIPLE_DOCS' ? 'a second document begins here; a chute is one' : message.slice(0, 200))
  }
  if (reading.problems.length === 0) {
    // An alias stands for the nearest earlier anchor of its name.
    const anchors = new Map<string, Node>()
    visit(document, {
      Node: (_, node) => {
        if (isAlias(node)) {
          const target = anchors.get(node.source)
          if (target) reading.aliases.set(node, target)
          else bad(node.range?.[0] ?? 0, `there is no anchor &${node.source.slice(0, 80)} before this alias`)
        } else if (node.anchor) anchors.set(node.anchor, node)
      },
    })
  }
  if (reading.problems.length > 0) throw new ManifestError(file, reading.problems)
  const root = new Value(reading, document.contents, 1, '')
  return root.kind === 'nothing'
    ? fail('is empty: a chute needs at least services, and an image or a build in each')
    : root
}

// --- Readers: from a Value to what it means, or a recorded refusal and undefined -------------------------------------

export type Reader<T> = (value: Value) => T | undefined

/** A value with its place, where what is wrong with it shows only beside others. */
export interface Placed<T> {
  at: Value
  is: T
}

export function byKind<T>(readers: Partial<Record<Kind, Reader<T>>>): Reader<T> {
  return (value) => {
    const read = readers[value.kind]
    if (read) return read(value)
    const kinds = (Object.keys(readers) as Kind[]).filter((kind) => kind !== 'nothing').map((kind) => KINDS[kind])
    const unquoted = (value.kind === 'number' || value.kind === 'flag') && 'text' in readers && !('number' in readers)
    return value.refuse(
      `must be ${kinds.join(' or ')}, not ${KINDS[value.kind]}${unquoted ? ' (put it in quotes)' : ''}`,
    )
  }
}

/** Without the keys that have no value: a record holds what was said, and nothing else. */
export const defined = <T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(value).filter(([, is]) => is !== undefined)) as never

/** A parser at a text; a MeshError it throws becomes a refusal. */
export function attempt<T>(at: Value, text: string | undefined, parse: (text: string) => T): T | undefined {
  try {
    return text === undefined ? undefined : parse(text)
  } catch (error) {
    if (error instanceof MeshError) return at.refuse(error.message)
    throw error
  }
}

export const parsing =
  <T>(parse: (text: string) => T): Reader<T> =>
  (value) =>
    attempt(value, value.text(), parse)

export const plain = byKind({ text: (value) => value.text() })
export const text = <T>(parse: (text: string) => T) => byKind({ text: parsing(parse) })
export const textOrNumber = <T>(parse: (text: string) => T) => byKind({ text: parsing(parse), number: parsing(parse) })
export const flag = byKind({ flag: parsing((word) => word.toLowerCase() === 'true') })

export const placed =
  <T>(read: Reader<T>): Reader<Placed<T>> =>
  (at) => {
    const is = read(at)
    return is === undefined ? undefined : { at, is }
  }

/** The items that can be read. */
export const items =
  <T>(read: Reader<T>): Reader<T[]> =>
  (value) =>
    value.list().flatMap((item) => {
      const is = read(item)
      return is === undefined ? [] : [is]
    })

/** Nothing where one item cannot be read: a command that lacks a word is another command. */
export const texts: Reader<string[]> = (value) => {
  const all = value.list().map((item) => plain(item))
  return all.every((one) => one !== undefined) ? all : undefined
}

export const list = <T>(read: Reader<T>) => byKind({ list: items(read) })

type Table = Record<string, Reader<unknown>>
/** A key that was given has an entry, which is undefined where its value was refused. */
type Read<T extends Table> = { [K in keyof T]?: T[K] extends Reader<infer V> ? V : never }
export type Fields<R> = R extends Reader<infer V> ? V : never

// Compose would pass over it, and so over a misspelt x-dropmesh.
const EXTENSION = 'no extension but x-dropmesh is read; an anchor can stand where it is used first'

/** A map of which every key is in the table; any other is refused by name, with the reason where there is one. */
export const fields = <T extends Table>(table: T, reasons: Record<string, string> = {}): Reader<Read<T>> =>
  byKind({
    map: (value) => {
      const read: Record<string, unknown> = {}
      for (const [key, entry] of value.map()) {
        const reason = Object.hasOwn(reasons, key) ? reasons[key] : key.startsWith('x-') ? EXTENSION : undefined
        if (Object.hasOwn(table, key)) read[key] = table[key]!(entry)
        else entry.refuse(['not supported in a chute', ...(reason ? [reason] : [])].join(': '))
      }
      return read as Read<T>
    },
  })

interface Issue {
  path: PropertyKey[]
  message: string
}

export const issueText = ({ path, message }: Issue): string =>
  path.length > 0 ? `${path.join('.')}: ${message}` : message

/** What `read` gives, held against the schema of where it will be kept. `unit` is what the schema counts in. */
export function within<T>(
  schema: { safeParse(value: unknown): { error?: { issues: Issue[] } } },
  read: Reader<T>,
  unit?: string,
): Reader<T> {
  return (value) => {
    const is = read(value)
    const issues = is === undefined ? [] : (schema.safeParse(is).error?.issues ?? [])
    for (const issue of issues) value.refuse(`${issueText(issue)}${unit ? ` ${unit}` : ''}`)
    return is
  }
}

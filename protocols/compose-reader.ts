// A YAML document as values that know their lines, and readers that turn them into what they mean: a table of keys and
// readers is all that a kind of map needs. Every refusal is recorded, so that a person sees all of them at once. Knows
// nothing of which keys a chute has.
import {
  type Alias,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  visit,
  type YAMLMap,
} from 'yaml'
import { utf8 } from './bytes.js'
import { interpolate, type Lookup } from './compose-interpolation.js'
import { MAX_SHOWN, ManifestError, type Remark, Remarks } from './compose-remarks.js'
import { MeshError } from './error.js'
import { excessIn, withoutStacks } from './yaml-bounds.js'

/** In bytes: eight times what a record can hold, and little enough to read in a second. */
const MAX_TEXT = 256 * 1024
/** Maps and lists within each other; a chute needs eight. */
const MAX_DEPTH = 64
/** Values read, aliases counted as often as they are used: a few lines of aliases can stand for billions. */
const MAX_VALUES = 20_000
/** Merges within merges; an alias can stand within its own anchor. */
const MAX_MERGES = 16
/** Characters that the variables of a manifest come to, all together. */
const MAX_INTERPOLATED = 4 * MAX_TEXT
/** Files that a manifest is made of: those it includes, extends, or takes values from. */
const MAX_FILES = 64
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

/** What a manifest is read with: pure data, and a way to files of its folder. */
export interface Surroundings {
  /** Values of variables, of who publishes. */
  variables?: Lookup
  /** The text of a file of the manifest's folder, by its path there; undefined where there is none. @throws MeshError */
  readFile?: (path: string) => string | undefined
  /** What is at such a path; undefined for nothing. Without it, what is built is not looked for. @throws MeshError */
  kindAt?: (path: string) => 'file' | 'folder' | undefined
}

/** What all files of one manifest share: what was said of them, and how much of it was read. */
export class Session {
  readonly remarks = new Remarks()
  values = 0
  interpolated = 0
  private files = 0

  /** @param interpolates whether `$X` stands for a variable; else it is text as any other */
  constructor(
    readonly surroundings: Surroundings,
    readonly interpolates = true,
  ) {}

  /** @throws MeshError where it cannot be read */
  readFile(path: string): string | undefined {
    if (++this.files > MAX_FILES) throw new MeshError('manifest', `a chute is made of ${MAX_FILES} files at most`)
    return this.surroundings.readFile?.(path)
  }
}

/** One file being read: where its lines begin, what its aliases stand for. */
interface Reading {
  /** As people see it. */
  file: string
  /** Of the file, in the folder of the manifest: `.` or `a/b`. */
  folder: string
  session: Session
  variables: Lookup
  lines: LineCounter
  aliases: Map<Alias, Node>
}

/** A value of the manifest and where it stands: its key, or the list item. */
export class Value {
  readonly kind: Kind

  constructor(
    readonly reading: Reading,
    private readonly node: Node | null,
    private readonly offset: number,
    readonly path: string,
  ) {
    this.kind = kindOf(node)
    if (++reading.session.values > MAX_VALUES)
      throw new ManifestError([
        this.remark(`more than ${MAX_VALUES} values, counting aliases as often as they are used`),
      ])
  }

  get line(): number {
    return this.reading.lines.linePos(this.offset).line
  }

  /** Where it stands, for what is said elsewhere: `line 7`, or `other.yaml:7`. */
  where(from: Value): string {
    return this.reading.file === from.reading.file ? `line ${this.line}` : `${this.reading.file}:${this.line}`
  }

  private remark(message: string): Remark {
    const { line, col: column } = this.reading.lines.linePos(this.offset)
    return { file: this.reading.file, line: line || 1, column: column || 1, path: this.path, message }
  }

  refuse(message: string): undefined {
    this.reading.session.remarks.refuse(this.remark(message))
  }

  /** Says something that a person should know, and that is no problem. */
  note(message: string): void {
    this.reading.session.remarks.note(this.remark(message))
  }

  /** Of kind text, number or flag: the text as it was written, since 1.10 is a version more often than a number. */
  text(): string | undefined {
    if (!isScalar(this.node)) return undefined
    const { value, source } = this.node
    const text = typeof value === 'string' ? value : (source ?? String(value))
    const isTemplate = this.reading.session.interpolates && text.includes('$')
    const is = isTemplate ? attempt(this, text, (template) => this.interpolate(template)) : text
    if (is === undefined) return undefined
    return is.includes('\0') || /\p{Cs}/u.test(is) ? this.refuse('holds a NUL, or half a character') : is
  }

  private interpolate(template: string): string {
    const { session, variables } = this.reading
    const unset = (name: string) => this.note(`variable ${name} is not set, and stands for nothing`)
    const is = interpolate(template, variables, unset)
    session.interpolated += is.length
    if (session.interpolated > MAX_INTERPOLATED)
      throw new MeshError('manifest', `the variables of the manifest come to more than ${MAX_INTERPOLATED} characters`)
    return is
  }

  list(): Value[] {
    if (!isSeq(this.node)) return []
    return this.node.items.map((item, i) => this.inside(item as Node | null, item as Node | null, `${this.path}[${i}]`))
  }

  /** @param takesNumbers whether a key may be a number, as it was written */
  map(takesNumbers = false): Map<string, Value> {
    return isMap(this.node) ? this.entries(this.node, 0, takesNumbers) : new Map()
  }

  private entries(map: YAMLMap, depth: number, takesNumbers: boolean): Map<string, Value> {
    const entries = new Map<string, Value>()
    const merges: Value[] = []
    for (const pair of map.items) {
      const key = this.resolve(pair.key as Node | null)
      const name = isScalar(key) ? (typeof key.value === 'string' ? key.value : (key.source ?? '')) : '?'
      const path = [...(this.path ? [this.path] : []), name.length > 80 ? `${name.slice(0, 80)}…` : name].join('.')
      const value = this.inside(pair.value as Node | null, pair.key as Node | null, path)
      const earlier = entries.get(name)
      if (name === '<<' && isScalar(key) && key.type === 'PLAIN') merges.push(value)
      else if (!isScalar(key) || !(typeof key.value === 'string' || (takesNumbers && typeof key.value === 'number')))
        value.refuse('a key must be text: put it in quotes')
      else if (earlier) value.refuse(`given twice, first on ${earlier.where(value)}`)
      else entries.set(name, value)
    }
    // https://yaml.org/type/merge.html: a map's own keys come before merged ones, and earlier maps before later ones.
    for (const merge of merges.flatMap((value) => (value.kind === 'list' ? value.list() : [value]))) {
      if (!isMap(merge.node) || depth === MAX_MERGES) {
        merge.refuse(isMap(merge.node) ? 'merged too deeply' : 'a merge takes a map, or a list of maps')
        continue
      }
      for (const [name, value] of this.entries(merge.node, depth + 1, takesNumbers))
        if (!entries.has(name)) entries.set(name, value)
    }
    return entries
  }

  private inside(node: Node | null, at: Node | null, path: string): Value {
    return new Value(this.reading, this.resolve(node), at?.range?.[0] ?? this.offset, path)
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
 * The root of a file of a manifest.
 * @param file as people see it
 * @param folder the file's own, in that of the manifest
 * @throws ManifestError where the text is no single YAML document
 */
export function open(
  text: string,
  file: string,
  session: Session,
  folder = '.',
  variables: Lookup = session.surroundings.variables ?? (() => undefined),
): Value {
  const lines = new LineCounter()
  const said: Remark[] = []
  const bad = (message: string, { line, col }: { line: number; col: number }) => {
    said.push({ file, line: line || 1, column: col || 1, path: '', message })
  }
  const fail = (message: string, line = 1): never => {
    bad(message, { line, col: 1 })
    throw new ManifestError(said)
  }
  if (text.length > MAX_TEXT || utf8(text).length > MAX_TEXT) {
    return fail(`longer than ${MAX_TEXT / 1024} KiB: what a chute is made of belongs into its image`)
  }
  const excess = excessIn(text, MAX_DEPTH)
  if (excess !== undefined) return fail(excess.why, excess.line)
  const aliases = new Map<Alias, Node>()
  // Keys given twice are found in Value.entries: the parser's own search takes the square of their number.
  const document = withoutStacks(() =>
    parseDocument(text, {
      lineCounter: lines,
      prettyErrors: false,
      uniqueKeys: false,
      schema: 'core',
      resolveKnownTags: false,
      logLevel: 'error',
    }),
  )
  // A warning is a tag or a directive that is not understood, and nothing may be ignored. Most of many errors come of the
  // first.
  for (const { code, pos, message } of [...document.errors, ...document.warnings].slice(0, MAX_SHOWN)) {
    const what = code === 'MULTIPLE_DOCS' ? 'a second document begins here; a chute is one' : message.slice(0, 200)
    bad(what, lines.linePos(pos[0]))
  }
  if (said.length === 0) {
    // An alias stands for the nearest earlier anchor of its name.
    const anchors = new Map<string, Node>()
    visit(document, {
      Node: (_, node) => {
        if (isAlias(node)) {
          const target = anchors.get(node.source)
          if (target) aliases.set(node, target)
          else
            bad(
              `there is no anchor &${node.source.slice(0, 80)} before this alias`,
              lines.linePos(node.range?.[0] ?? 0),
            )
        } else if (node.anchor) anchors.set(node.anchor, node)
      },
    })
  }
  if (said.length > 0) throw new ManifestError(said)
  const reading = { file, folder, session, variables, lines, aliases }
  const root = new Value(reading, document.contents, 0, '')
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
const truth = parsing((word) => {
  const is = word.toLowerCase()
  if (is !== 'true' && is !== 'false') throw new MeshError('manifest', 'must be true or false, not text')
  return is === 'true'
})
/** As text too, since that is what a variable stands for. */
export const flag = byKind({ flag: truth, text: truth })

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

/** What becomes of the keys that are in no table: why one is refused, or passed over. */
export interface Others {
  refused?: Record<string, string>
  ignored?: Record<string, string>
}

const EXTENSION = 'an extension that nothing here reads'
// Compose would pass over this as well, and so over a misspelt x-dropmesh.
const MISSPELT = 'no extension begins so but x-dropmesh, which does not stand here'

/** A map of which every key is in the table; any other is passed over with a note, or refused, by name. */
export const fields = <T extends Table>(table: T, { refused = {}, ignored = {} }: Others = {}): Reader<Read<T>> =>
  byKind({
    map: (value) => {
      const read: Record<string, unknown> = {}
      for (const [key, entry] of value.map()) {
        const reason = Object.hasOwn(refused, key) ? refused[key] : key.startsWith('x-drop') ? MISSPELT : undefined
        if (Object.hasOwn(table, key)) read[key] = table[key]!(entry)
        else if (Object.hasOwn(ignored, key)) entry.note(`ignored: ${ignored[key]}`)
        else if (key.startsWith('x-') && reason === undefined) entry.note(`ignored: ${EXTENSION}`)
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

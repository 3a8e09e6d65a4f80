// Env files, as `env_file` and `.env` have them:
// https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/#env-file-syntax
import { interpolate, type Lookup } from './compose-interpolation.js'
import { variableName } from './compose-values.js'
import { MeshError } from './error.js'

/** Lines that cannot be read after which the rest is left: nobody mends more of them at once. */
const MAX_PROBLEMS = 100

/** `raw` takes what follows the `=` as it is, to the end of the line. */
export type EnvFormat = 'quoted' | 'raw'

export interface EnvLine {
  line: number
  name: string
  /** Undefined where the line is a name alone, which has the value that it has elsewhere, if any. */
  value: string | undefined
}

export interface EnvProblem {
  line: number
  message: string
}

const START = /^\s*(?:export\s+)?([^\s=:#'"]+)[ \t]*(?:[=:][ \t]*(.*))?$/s
const ESCAPES: Record<string, string> = { n: '\n', r: '\r', t: '\t', '\\': '\\', '"': '"', $: '$$' }

/**
 * The variables of an env file, in its order, and what cannot be read of it: the first hundred lines of that.
 * @param lookup what is known already; what stands earlier in the file comes before it
 */
export function readEnv(
  text: string,
  lookup: Lookup = () => undefined,
  format: EnvFormat = 'quoted',
): { lines: EnvLine[]; problems: EnvProblem[] } {
  const lines: EnvLine[] = []
  const problems: EnvProblem[] = []
  const known = new Map<string, string>()
  const rows = text.replace(/^\ufeff/, '').split(/\r?\n/)
  for (let i = 0; i < rows.length && problems.length < MAX_PROBLEMS; ) {
    const line = i + 1
    const row = rows[i++]!
    if (/^\s*(#|$)/.test(row)) continue
    try {
      const [, key, rest] = START.exec(row) ?? []
      if (key === undefined || (rest === undefined && /\S\s+\S/.test(row.replace(/^\s*export\s/, ''))))
        throw new MeshError('manifest', 'is not NAME=VALUE')
      const name = variableName(key)
      let value: string | undefined
      if (format === 'raw') value = rest === undefined ? undefined : row.slice(row.search(/[=:]/) + 1)
      else if (rest !== undefined) {
        const quote = rest[0] === '"' || rest[0] === "'" ? rest[0] : undefined
        if (quote === undefined) {
          const comment = /(?:^|\s)#/.exec(rest)
          value = interpolate(rest.slice(0, comment?.index).trimEnd(), valueIn(known, lookup))
        } else {
          // A value in quotes goes on over lines until they end.
          const parts = [rest.slice(1)]
          let end = endOf(parts[0]!, quote)
          while (end < 0 && i < rows.length) {
            parts.push(rows[i++]!)
            end = endOf(parts.at(-1)!, quote)
          }
          if (end < 0) throw new MeshError('manifest', `${name} has a ${quote} that is never closed`)
          const last = parts.pop()!
          if (!/^\s*(#.*)?$/s.test(last.slice(end + 1)))
            throw new MeshError('manifest', `${name} goes on behind its ${quote}`)
          const inside = [...parts, last.slice(0, end)].join('\n')
          value =
            quote === "'"
              ? inside.replaceAll("\\'", "'")
              : interpolate(
                  inside.replace(/\\([nrt\\"$])/g, (_, c: string) => ESCAPES[c]!),
                  valueIn(known, lookup),
                )
        }
      }
      if (value !== undefined) known.set(name, value)
      lines.push({ line, name, value: value ?? valueIn(known, lookup)(name) })
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      problems.push({ line, message: error.message })
    }
  }
  return { lines, problems }
}

/** Where the first quote is in a line that no backslash is before; -1 where there is none. */
function endOf(line: string, quote: string): number {
  for (let at = 0; at < line.length; at++) {
    if (line[at] === '\\') at++
    else if (line[at] === quote) return at
  }
  return -1
}

const valueIn =
  (known: ReadonlyMap<string, string>, lookup: Lookup): Lookup =>
  (name) =>
    known.get(name) ?? lookup(name)

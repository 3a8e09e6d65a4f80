// What stands for a variable in a manifest or an env file, and what it comes to:
// https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md. Knows nothing of YAML, nor of where values
// come from.
import { MeshError } from './error.js'

/** The value of a variable; undefined where it is not set. */
export type Lookup = (name: string) => string | undefined

/** `${A:-${B:-…}}`, one in the other. */
const MAX_NESTED = 16
/** Characters that one text can come to: a few variables, each used often, can stand for gigabytes. */
const MAX_LENGTH = 64 * 1024

const NAME = /[A-Za-z_][A-Za-z0-9_]*/y
const OPERATOR = /:?[-?+]/y

function refuse(message: string): never {
  throw new MeshError('manifest', message)
}

/**
 * The text with the values of its variables.
 * @param isUnset is told each variable that has no value, where nothing says what that means
 * @throws MeshError `manifest` where it cannot be read, a variable that must have a value has none, or it grows too long
 */
export function interpolate(text: string, lookup: Lookup, isUnset: (name: string) => void = () => {}): string {
  let at = 0
  // The next closing brace from where it was last asked for: looked for once, or a long text without one takes for ever.
  let brace = -1
  const nextBrace = (): number => {
    if (brace < at) brace = text.indexOf('}', at)
    if (brace < 0) brace = text.length
    return brace
  }

  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at
    const found = pattern.exec(text)?.[0]
    at += found?.length ?? 0
    return found
  }

  /** Up to the end, or to the brace that ends what is `nested` so deep. */
  const read = (nested: number, isUsed: boolean): string => {
    let result = ''
    while (at < text.length && !(nested > 0 && text[at] === '}')) {
      const dollar = text.indexOf('$', at)
      const end = Math.min(dollar < 0 ? text.length : dollar, nested > 0 ? nextBrace() : text.length)
      result += text.slice(at, end)
      at = end
      if (text[at] === '$') result += variable(nested, isUsed)
      if (result.length > MAX_LENGTH) refuse(`comes to more than ${MAX_LENGTH} characters`)
    }
    return result
  }

  const variable = (nested: number, isUsed: boolean): string => {
    at++
    if (text[at] === '$') {
      at++
      return '$'
    }
    const isBraced = text[at] === '{'
    if (isBraced) at++
    // biome-ignore lint/suspicious/noTemplateCurlyInString: what people write
    const name = match(NAME) ?? refuse('a $ begins a variable, as in ${NAME}: write $$ for a dollar sign')
    const operator = isBraced ? match(OPERATOR) : undefined
    if (nested === MAX_NESTED) refuse(`variables within each other more than ${MAX_NESTED} deep`)
    const value = lookup(name)
    // What follows a colon takes an empty value for none.
    const isThere = operator?.startsWith(':') ? value !== undefined && value !== '' : value !== undefined
    const kind = operator?.at(-1)
    const usesOther = kind === '+' ? isThere : !isThere
    const other = operator === undefined ? '' : read(nested + 1, isUsed && usesOther)
    if (isBraced && text[at++] !== '}') refuse(`\${${name} is never closed, or holds what no variable has`)
    if (kind === '-') return isThere ? value! : other
    if (kind === '+') return isThere ? other : ''
    if (kind === '?') {
      if (!isThere && isUsed) refuse(`variable ${name} needs a value${other === '' ? '' : `: ${other}`}`)
      return value ?? ''
    }
    if (value === undefined && isUsed) isUnset(name)
    return value ?? ''
  }

  return read(0, true)
}

// What bounds the time that a YAML document takes to be read, whatever it says.
import { CST, Lexer, Parser } from 'yaml'

/** Lines in which all brackets that are open may be broken off: to complain of each one in 8 KiB of them takes 80 ms. */
const MAX_BROKEN = 16

/**
 * Where, and why, a text is not to be read: it is nested deeper than `most`, or again and again in brackets that nobody closes.
 * The parser composes a document by recursion, and where that meets the end of the stack, V8 may have to compile a regular
 * expression and abort the process instead of throwing. And keys within keys (`? ? ? a`) it writes out as text, each once for all
 * those around it: 750 of them took 91 seconds.
 */
export function excessIn(text: string, most: number): { line: number; why: string } | undefined {
  const parser = new Parser()
  const excess = (why: string) => ({ line: text.slice(0, parser.offset).split('\n').length, why })
  let broken = 0
  for (const lexeme of new Lexer().lex(text)) {
    for (const _document of parser.next(lexeme));
    if (parser.stack.length > most) return excess(`nested more than ${most} deep`)
    if (lexeme === CST.FLOW_END && ++broken > MAX_BROKEN)
      return excess(`brackets are not closed, as in more than ${MAX_BROKEN} lines before`)
  }
  return undefined
}

/**
 * What `read` returns; the errors that it makes or throws have no stack. Of a text of brackets that do not match, the parser makes
 * an error for each, 8000 in 8 KiB, and to note their stacks takes V8 80 ms.
 */
export function withoutStacks<T>(read: () => T): T {
  const before = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  try {
    return read()
  } finally {
    Error.stackTraceLimit = before
  }
}

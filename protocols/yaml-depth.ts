// How deep a YAML document is nested, before it is read.
import { Lexer, Parser } from 'yaml'

/**
 * Where a text is nested deeper than `most`; undefined where it is not. The parser composes a document by recursion, and where that
 * meets the end of the stack, V8 may have to compile a regular expression and abort the process instead of throwing. And keys within
 * keys (`? ? ? a`) it writes out as text, each once for all those around it: 750 of them took 91 seconds.
 */
export function tooDeepAt(text: string, most: number): number | undefined {
  const parser = new Parser()
  for (const lexeme of new Lexer().lex(text)) {
    for (const _document of parser.next(lexeme));
    if (parser.stack.length > most) return parser.offset
  }
  return undefined
}

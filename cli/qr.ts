// A text as a QR code for the terminal, black on white whatever the colours of the terminal are.
import { encode } from 'uqr'

/** Modules of white around the code: the standard asks for four, and every reader we know does with two. */
const BORDER = 2

/** Two rows of modules a line, since a character is twice as high as it is wide. */
const HALVES = { light: { light: '█', dark: '▀' }, dark: { light: '▄', dark: ' ' } } as const

/** @param text of a ticket, of which capital letters take half the room of small ones */
export function qrCode(text: string): string {
  const { data } = encode(text.toUpperCase(), { ecc: 'L', border: BORDER })
  const shade = (row: readonly boolean[] | undefined, x: number) => (row?.[x] ? 'dark' : 'light')
  const lines: string[] = []
  for (let y = 0; y < data.length; y += 2) {
    lines.push(data[y]!.map((_, x) => HALVES[shade(data[y], x)][shade(data[y + 1], x)]).join(''))
  }
  return lines.map((line) => `\u001b[97;40m${line}\u001b[0m`).join('\n')
}

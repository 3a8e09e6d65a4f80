// The inputs that are kept: a file for each decoder, an input a line in base64. Those after "!" once broke it.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const fileOf = (decoder: string): string =>
  fileURLToPath(new URL(`../../../test/fuzz/corpus/${decoder}.txt`, import.meta.url))

export interface Kept {
  readonly input: Uint8Array
  readonly wasFinding: boolean
}

export function readCorpus(decoder: string): Kept[] {
  let text: string
  try {
    text = readFileSync(fileOf(decoder), 'utf8')
  } catch {
    return [] // none yet
  }
  const lines = text.split('\n').filter((line) => line !== '')
  return lines.map((line) => ({
    input: Uint8Array.from(Buffer.from(line.replace('!', ''), 'base64')),
    wasFinding: line.startsWith('!'),
  }))
}

export function writeCorpus(decoder: string, kept: readonly Kept[]): void {
  const lines = kept.map(
    ({ input, wasFinding }) => `${wasFinding ? '!' : ''}${Buffer.from(input).toString('base64')}\n`,
  )
  writeFileSync(fileOf(decoder), [...new Set(lines)].join(''))
}

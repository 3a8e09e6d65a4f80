// What only the person knows: asked for on the terminal without an echo, or read from a file that a script names. Never an
// argument and never a variable, which other programs can read.
import { openSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { ReadStream } from 'node:tty'
import { MeshError, messageOf } from '../protocols/error.js'

/** How often a person may mistype. */
const ATTEMPTS = 3
/** Where a passphrase protects a file that may come into other hands, in characters. */
const MIN_LENGTH = 8

/**
 * What `unlock` makes of the right passphrase.
 * @param what is locked, as a person knows it
 * @param unlock returns undefined for a wrong passphrase
 * @throws MeshError `wrong-passphrase`, `no-terminal`, `cancelled`
 */
export async function withPassphrase<T>(what: string, unlock: (passphrase: string) => T | undefined): Promise<T> {
  const given = await fromFile()
  for (let attempt = 0; attempt < (given === undefined ? ATTEMPTS : 1); attempt++) {
    const unlocked = unlock(given ?? (await ask(`Passphrase of ${what}: `, false)))
    if (unlocked !== undefined) return unlocked
  }
  throw new MeshError('wrong-passphrase', `this is not the passphrase of ${what}`)
}

/** A passphrase for something that is locked now. @throws MeshError `passphrase`, `no-terminal`, `cancelled` */
export async function newPassphrase(what: string): Promise<string> {
  const given = await fromFile()
  const passphrase = given ?? (await ask(`Passphrase for ${what}, at least ${MIN_LENGTH} characters: `, false))
  if (passphrase.length < MIN_LENGTH)
    throw new MeshError(
      'passphrase',
      `a passphrase has at least ${MIN_LENGTH} characters, this one ${passphrase.length}`,
    )
  if (given === undefined && (await ask('The same again: ', false)) !== passphrase)
    throw new MeshError('passphrase', 'the two passphrases differ; nothing was written')
  return passphrase
}

/** Any other line that must not stand on the screen. @throws MeshError `no-terminal`, `cancelled` */
export const askHidden = (prompt: string): Promise<string> => ask(prompt, false)

/** Asks a person to type `yes`. @throws MeshError `cancelled` where they type anything else, `no-terminal` */
export async function confirm(question: string): Promise<void> {
  if ((await ask(`${question} Type yes to go on: `, true)).trim() !== 'yes')
    throw new MeshError('cancelled', 'cancelled; nothing was changed')
}

async function fromFile(): Promise<string | undefined> {
  const path = process.env.DROPMESH_PASSPHRASE_FILE
  if (path === undefined || path === '') return undefined
  try {
    return (await readFile(path, 'utf8')).replace(/\r?\n$/, '')
  } catch (cause) {
    throw new MeshError('passphrase', `DROPMESH_PASSPHRASE_FILE cannot be read: ${messageOf(cause)}`, { cause })
  }
}

/** The terminal itself, since stdin and stdout may be pipes. */
const TERMINAL = '/dev/tty'

async function ask(prompt: string, isShown: boolean): Promise<string> {
  let input: ReadStream
  try {
    input = new ReadStream(openSync(TERMINAL, 'r+'))
  } catch (cause) {
    throw new MeshError(
      'no-terminal',
      `there is no terminal to ask on ("${prompt.trim()}"); a script names a file with the passphrase in ` +
        'DROPMESH_PASSPHRASE_FILE, and confirms with --yes',
      { cause },
    )
  }
  const show = (text: string) => writeFileSync(TERMINAL, text)
  const output = new Writable({
    write(chunk, _encoding, done) {
      if (isShown) show(String(chunk))
      done()
    },
  })
  // It turns the terminal's own echo off, and edits the line as a person types.
  const lines = createInterface({ input, output, terminal: true })
  try {
    return await new Promise<string>((resolve, reject) => {
      lines.once('line', resolve)
      const cancel = () => reject(new MeshError('cancelled', 'cancelled'))
      lines.once('SIGINT', cancel)
      lines.once('close', cancel)
      show(prompt)
    })
  } finally {
    lines.close()
    input.destroy()
    show('\n')
  }
}

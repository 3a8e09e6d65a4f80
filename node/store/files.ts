// Small files that a power cut leaves whole: with what was in them before, or with all that was written last.
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

/** One such file, of mode 0600. Writes happen in the order in which they are asked for. */
export class SmallFile {
  private last: Promise<unknown> = Promise.resolve()

  constructor(readonly path: string) {}

  /** What is in it, or undefined where there is none. */
  async read(): Promise<string | undefined> {
    try {
      return await readFile(this.path, 'utf8')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  /** Resolves once the text is on disk under the name of the file. */
  write(text: string): Promise<void> {
    return this.inTurn(() => replace(this.path, text))
  }

  remove(): Promise<void> {
    return this.inTurn(async () => {
      await rm(this.path, { force: true })
      await syncFolder(dirname(this.path))
    })
  }

  private inTurn(what: () => Promise<void>): Promise<void> {
    const turn = this.last.then(what)
    this.last = turn.catch(() => {})
    return turn
  }
}

async function replace(path: string, text: string): Promise<void> {
  const fresh = `${path}.new`
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await rm(fresh, { force: true }) // one that a power cut left would keep its mode, whatever that is
  try {
    const file = await open(fresh, 'wx', 0o600)
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(fresh, path)
  } catch (error) {
    await rm(fresh, { force: true }) // on a full disk it would take what room there is
    throw error
  }
  await syncFolder(dirname(path)) // or the new name may be lost
}

/** Makes what was made, renamed and removed in a folder survive a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** What a JSON text says, or undefined where there is none, or something else. */
export function parseOrNothing<T>(value: Uint8Array | string | undefined): T | undefined {
  try {
    return value === undefined ? undefined : ((JSON.parse(Buffer.from(value).toString()) as T | null) ?? undefined)
  } catch {
    return undefined
  }
}

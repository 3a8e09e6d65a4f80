// What an AP must not forget of leases, or an exclusive chute could run twice: what it promised, what it gave back, and
// which voters it signed for.
import { z } from 'zod'
import { chuteOfInstance } from '../../protocols/chute.js'
import type { LeasePromise } from '../../protocols/leases.js'
import { parseOrNothing, type SmallFile } from '../store/files.js'

const generation = z.int().min(1)
const contents = z.object({
  promises: z.record(z.string(), z.object({ epoch: z.int(), holder: z.string() })),
  released: z.record(z.string(), z.int()),
  signed: z.record(z.string(), z.object({ generation, voters: z.array(z.string()) })),
})

/** A change of voters that this AP has signed for. */
export interface Ballot {
  readonly generation: number
  /** AP keys, hex. */
  readonly voters: string[]
}

type LeaseFile = Pick<SmallFile, 'read' | 'write'>

export class LeaseBook {
  /** Its latest promise as a voter, by instance. */
  readonly promises = new Map<string, LeasePromise>()
  /** The highest epoch it has given back as a holder, by instance. */
  readonly released = new Map<string, number>()
  /** By hex of the chute's key. */
  readonly signed = new Map<string, Ballot>()
  private last: Promise<unknown> = Promise.resolve()
  private next: Promise<void> | undefined

  private constructor(private readonly file: LeaseFile) {}

  /**
   * Nothing is in it where there is no file, and where it is damaged: then the time for which a voter keeps quiet after a
   * start must do.
   */
  static async load(file: LeaseFile): Promise<{ book: LeaseBook; isDamaged: boolean }> {
    const book = new LeaseBook(file)
    const text = await file.read()
    const { data } = contents.safeParse(parseOrNothing(text))
    for (const [instance, promise] of Object.entries(data?.promises ?? {})) book.promises.set(instance, promise)
    for (const [instance, epoch] of Object.entries(data?.released ?? {})) book.released.set(instance, epoch)
    for (const [chute, ballot] of Object.entries(data?.signed ?? {})) book.signed.set(chute, ballot)
    return { book, isDamaged: text !== undefined && data === undefined }
  }

  /** Leaves out what it says of a chute: its key never comes back. */
  forget(chute: string): void {
    this.signed.delete(chute)
    for (const map of [this.promises, this.released])
      for (const instance of map.keys()) if (chuteOfInstance(instance) === chute) map.delete(instance)
  }

  /** Resolves once all that is in it now is on disk. However often it is asked for meanwhile, one more write is enough. */
  save(): Promise<void> {
    this.next ??= this.last.then(() => {
      this.next = undefined
      const [promises, released, signed] = [this.promises, this.released, this.signed].map((map) =>
        Object.fromEntries<unknown>(map),
      )
      return this.file.write(`${JSON.stringify({ promises, released, signed })}\n`)
    })
    const saved = this.next
    this.last = saved.catch(() => {})
    return saved
  }
}

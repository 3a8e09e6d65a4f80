// Who may use the API over TCP: tokens of a right and an age. The node keeps their digests alone, so that who reads its
// folder has none. They are made and taken back on its socket.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { z } from 'zod'
import { MeshError } from '../../protocols/error.js'
import { parseOrNothing, type SmallFile } from '../store/files.js'

export const TOKEN_RIGHTS = ['read', 'write'] as const
export type TokenRight = (typeof TOKEN_RIGHTS)[number]

/** Each request is held against all of them. */
const MAX_TOKENS = 256

const kept = z.object({
  id: z.string(),
  /** SHA-256 of the token, as hex. */
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  right: z.enum(TOKEN_RIGHTS),
  /** Milliseconds since 1970; no date is later. */
  until: z.number().max(8.64e15),
})
type Kept = z.infer<typeof kept>

export interface TokenRow {
  id: string
  right: TokenRight
  /** ISO 8601. */
  until: string
}

export class Tokens {
  private constructor(
    private readonly file: SmallFile,
    private readonly now: () => number,
    private tokens: readonly Kept[],
  ) {}

  /** @param now the AP's time, in milliseconds since 1970: it never runs back, so that an old token stays old */
  static async open(file: SmallFile, now: () => number): Promise<Tokens> {
    // What cannot be read is as good as no token.
    const tokens = z.array(kept).safeParse(parseOrNothing(await file.read()))
    return new Tokens(file, now, tokens.data ?? [])
  }

  /** @param ageMs for how long it is good. @returns the token, which nobody can ask for again */
  async issue(right: TokenRight, ageMs: number): Promise<TokenRow & { token: string }> {
    const tokens = this.good()
    if (tokens.length >= MAX_TOKENS) {
      throw new MeshError('tokens', `there are ${MAX_TOKENS} tokens already: remove one with "dropmesh token rm"`)
    }
    const token = `dmt_${randomBytes(32).toString('base64url')}`
    const one = { id: randomBytes(4).toString('hex'), digest: digestOf(token), right, until: this.now() + ageMs }
    await this.keep([...tokens, one])
    return { token, ...rowOf(one) }
  }

  list(): TokenRow[] {
    return this.good().map(rowOf)
  }

  /** @throws MeshError `no-such-token` */
  async remove(id: string): Promise<void> {
    const tokens = this.good()
    const left = tokens.filter((one) => one.id !== id)
    if (left.length === tokens.length)
      throw new MeshError('no-such-token', `there is no token "${id}"; see "dropmesh token ls"`)
    await this.keep(left)
  }

  /** What a token is good for; undefined where it is none, or too old. Takes as long whichever it is like. */
  rightOf(token: string): TokenRight | undefined {
    const digest = Buffer.from(digestOf(token), 'hex')
    let found: TokenRight | undefined
    for (const one of this.good()) if (timingSafeEqual(Buffer.from(one.digest, 'hex'), digest)) found = one.right
    return found
  }

  private good(): Kept[] {
    return this.tokens.filter(({ until }) => until > this.now())
  }

  private async keep(tokens: readonly Kept[]): Promise<void> {
    await this.file.write(JSON.stringify(tokens))
    this.tokens = tokens
  }
}

const digestOf = (token: string): string => createHash('sha256').update(token).digest('hex')

const rowOf = ({ id, right, until }: Kept): TokenRow => ({ id, right, until: new Date(until).toISOString() })

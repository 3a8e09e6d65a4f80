// Talks to the local node: HTTP over the Unix socket in its data folder.
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { MeshError } from '../protocols/error.js'

/** A request that does not stream is answered in this time, in milliseconds, or the node hangs. */
const DEADLINE = 30_000

export class Client {
  constructor(readonly data: string) {}

  /** @throws MeshError with the node's code and message, or `no-node` */
  async get<T>(path: string, query: Record<string, string> = {}): Promise<T> {
    return this.json(await this.send('GET', withQuery(path, query)))
  }

  /** @throws MeshError with the node's code and message, or `no-node` */
  async post<T>(path: string, body: object | Uint8Array): Promise<T> {
    const isBytes = body instanceof Uint8Array
    const type = isBytes ? 'application/octet-stream' : 'application/json'
    return this.json(await this.send('POST', path, type, isBytes ? body : Buffer.from(JSON.stringify(body))))
  }

  /** Yields the objects of a stream of JSON lines. */
  async *lines<T>(
    method: 'GET' | 'POST',
    path: string,
    query: Record<string, string> = {},
    body?: Readable | object,
  ): AsyncGenerator<T> {
    const isStream = body !== undefined && 'pipe' in body
    const type = isStream ? 'application/x-tar' : 'application/json'
    const payload = body === undefined || isStream ? (body as Readable | undefined) : Buffer.from(JSON.stringify(body))
    const answer = await this.send(method, withQuery(path, query), type, payload, true)
    if (answer.status >= 400) await this.json(answer)
    let rest = ''
    for await (const chunk of answer.stream.setEncoding('utf8')) {
      rest += chunk
      const lines = rest.split('\n')
      rest = lines.pop()!
      for (const line of lines) if (line !== '') yield JSON.parse(line) as T
    }
  }

  /**
   * Has the node fetch a git repository, and yields its files as a tar.
   * @param say gets what the node says meanwhile, a line each
   */
  async *source(url: string, say: (line: string) => void): AsyncGenerator<Uint8Array> {
    const body = Buffer.from(JSON.stringify({ url }))
    const answer = await this.send('POST', '/v1/sources/git', 'application/json', body, true)
    if (answer.status >= 400) await this.json(answer)
    let head: Buffer | undefined = Buffer.alloc(0)
    for await (const chunk of answer.stream as AsyncIterable<Buffer>) {
      if (head === undefined) {
        yield chunk
        continue
      }
      head = Buffer.concat([head, chunk])
      for (let end = head.indexOf('\n'); end >= 0; end = head.indexOf('\n')) {
        const { output, source, error } = JSON.parse(String(head.subarray(0, end))) as SourceLine
        head = head.subarray(end + 1)
        if (error !== undefined) throw new MeshError(error.code, error.message)
        if (output !== undefined) say(output)
        if (source === undefined) continue
        if (head.length > 0) yield head
        head = undefined
        break
      }
    }
    if (head !== undefined) throw new MeshError('source', 'the node ended without giving what it fetched; try again')
  }

  private async json<T>(answer: Answer): Promise<T> {
    let text = ''
    for await (const chunk of answer.stream.setEncoding('utf8')) text += chunk
    const value = JSON.parse(text) as T & { error?: { code: string; message: string } }
    if (answer.status >= 400)
      throw new MeshError(value.error?.code ?? 'http', value.error?.message ?? `HTTP ${answer.status}`)
    return value
  }

  private send(
    method: string,
    path: string,
    type?: string,
    body?: Buffer | Uint8Array | Readable,
    isLong = false,
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const sent = request(
        {
          socketPath: join(this.data, 'dropmesh.sock'),
          method,
          path,
          headers: type === undefined ? {} : { 'content-type': type },
          timeout: isLong ? 0 : DEADLINE,
        },
        (response) => {
          resolve({ status: response.statusCode ?? 500, stream: response })
        },
      )
      sent.on('timeout', () => sent.destroy(new Error(`the node did not answer within ${DEADLINE / 1000} s`)))
      sent.on('error', (cause: NodeJS.ErrnoException) => reject(this.unreachable(cause)))
      if (body !== undefined && 'pipe' in body) {
        body.on('error', (error) => {
          sent.destroy()
          reject(error)
        })
        body.pipe(sent)
      } else sent.end(body)
    })
  }

  private unreachable(cause: NodeJS.ErrnoException): Error {
    if (cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED') {
      return new MeshError(
        'no-node',
        `no node runs on ${this.data}; start it with "dropmesh up", or name its folder with --data`,
      )
    }
    if (cause.code === 'EACCES') {
      return new MeshError('no-access', `the node on ${this.data} belongs to another user; use that one, or sudo`)
    }
    return cause
  }
}

/** A line before the files of a repository. */
interface SourceLine {
  output?: string
  source?: object
  error?: { code: string; message: string }
}

interface Answer {
  status: number
  stream: IncomingMessage
}

const withQuery = (path: string, query: Record<string, string>): string =>
  Object.keys(query).length === 0 ? path : `${path}?${new URLSearchParams(query)}`

// A client of a registry that does what it is told, right or wrong.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { digestOf } from '../../../node/packages/oci.js'
import { collect } from '../../../node/packages/tar.js'

export interface Answer {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
  /** Codes of the errors it tells of. */
  codes: string[]
}

type Body = Uint8Array | string | AsyncIterable<Uint8Array>

export class Client {
  constructor(readonly port: number) {}

  /** Sends a path as it stands, dots and all. */
  async send(method: string, path: string, headers: Record<string, string> = {}, body?: Body): Promise<Answer> {
    const answer = await this.begin(method, path, headers, body)
    const bytes = await collect(answer)
    let codes: string[] = []
    if (answer.headers['content-type'] === 'application/json' && bytes.length > 0) {
      const { errors = [] } = JSON.parse(String(bytes)) as { errors?: { code: string }[] }
      codes = errors.map(({ code }) => code)
    }
    return { status: answer.statusCode!, headers: answer.headers, body: bytes, codes }
  }

  /** The answer as soon as it begins. */
  begin(method: string, path: string, headers: Record<string, string> = {}, body?: Body): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const fixed = typeof body === 'string' || body instanceof Uint8Array
      const length = fixed ? { 'content-length': String(Buffer.byteLength(body)) } : {}
      const outgoing = request(
        { host: '127.0.0.1', port: this.port, agent: false, method, path, headers: { ...length, ...headers } },
        resolve,
      )
      outgoing.on('error', reject)
      if (body === undefined || fixed) outgoing.end(body)
      else void pipeline(Readable.from(body, { objectMode: false }), outgoing).catch(reject)
    })
  }

  get(path: string, headers: Record<string, string> = {}): Promise<Answer> {
    return this.send('GET', path, headers)
  }

  /** Pushes a blob in one request. */
  pushBlob(name: string, bytes: Uint8Array, digest = digestOf(bytes)): Promise<Answer> {
    return this.send('POST', `/v2/${name}/blobs/uploads/?digest=${digest}`, {}, bytes)
  }

  pushManifest(name: string, reference: string, manifest: object | string, type = IMAGE): Promise<Answer> {
    const body = typeof manifest === 'string' ? manifest : JSON.stringify(manifest)
    return this.send('PUT', `/v2/${name}/manifests/${reference}`, { 'content-type': type }, body)
  }

  /** The path of a new upload. */
  async beginUpload(name: string): Promise<string> {
    return (await this.send('POST', `/v2/${name}/blobs/uploads/`)).headers.location!
  }

  /** Pushes an image of one small layer, and returns its digests. */
  async pushImage(name: string, reference?: string, more: object = {}): Promise<{ digest: string; layer: string }> {
    const layer = randomBytes(1000)
    const config = Buffer.from(JSON.stringify({ os: 'linux', id: randomBytes(4).toString('hex') }))
    const parts = [config, layer].map((bytes) => descriptorOf(bytes))
    for (const bytes of [config, layer]) await this.pushBlob(name, bytes)
    const manifest = JSON.stringify({ ...imageOf(parts[0]!, [parts[1]!]), ...more })
    const digest = digestOf(Buffer.from(manifest))
    const { status, body } = await this.pushManifest(name, reference ?? digest, manifest)
    if (status !== 201) throw new Error(`the image was refused: ${status} ${body}`)
    return { digest, layer: parts[1]!.digest }
  }
}

export const IMAGE = 'application/vnd.oci.image.manifest.v1+json'
export const INDEX = 'application/vnd.oci.image.index.v1+json'

export const descriptorOf = (bytes: Uint8Array, mediaType = 'application/octet-stream') => ({
  mediaType,
  digest: digestOf(bytes),
  size: bytes.length,
})

export const imageOf = (config: object, layers: object[]) => ({
  schemaVersion: 2,
  mediaType: IMAGE,
  config,
  layers,
})

/** A registry in a process of its own. */
export class RegistryProcess extends Client {
  private constructor(
    readonly child: ChildProcess,
    port: number,
  ) {
    super(port)
  }

  static async start(dir: string): Promise<RegistryProcess> {
    const program = fileURLToPath(new URL('registry-process.js', import.meta.url))
    const child = spawn(process.execPath, [program, dir], { stdio: ['ignore', 'pipe', 'inherit'] })
    const port = await new Promise<number>((resolve, reject) => {
      child.stdout!.once('data', (text: Buffer) => resolve(Number(String(text).trim())))
      child.once('close', () => reject(new Error('the registry did not start')))
    })
    return new RegistryProcess(child, port)
  }

  async kill(): Promise<void> {
    const closed = new Promise((resolve) => this.child.once('close', resolve))
    this.child.kill('SIGKILL')
    await closed
  }
}

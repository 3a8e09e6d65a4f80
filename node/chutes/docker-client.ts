// How the node speaks with Docker: where the engine is, how long an answer may take, what an error means.
// It knows nothing of chutes or packages.
import { Readable } from 'node:stream'
import Docker from 'dockerode'
import { MeshError, messageOf } from '../../protocols/error.js'
import { EngineError } from './engine.js'

/** Milliseconds within which a healthy engine answers a question, also on a slow and busy AP. */
export const DEADLINE = 10_000

/**
 * Milliseconds without a byte after which a load, save, build or pull counts as hung. Long, since the engine says
 * nothing while it writes a large layer to a slow card.
 */
const IDLE = 300_000

const DEFAULT_SOCKET = '/var/run/docker.sock'

/**
 * A client of the engine at `host`: `unix:///path`, `tcp://host:port`, `http://host:port`. Without one, DOCKER_HOST
 * (with Docker's own variables for TLS), or else the usual socket. Connects to nothing yet.
 * @throws MeshError `docker-host` when the address is none of these.
 */
export function connectDocker(host?: string): Docker {
  const address = host ?? process.env.DOCKER_HOST ?? ''
  if (address === '') return new Docker({ socketPath: DEFAULT_SOCKET })
  const bad = (why: string) =>
    new MeshError(
      'docker-host',
      `"${address}" is no address of a Docker engine (${why}): use unix:///path/to/docker.sock or tcp://host:port`,
    )

  if (address.startsWith('unix://')) {
    const socketPath = address.slice('unix://'.length)
    if (!socketPath.startsWith('/')) throw bad('the path of the socket must be absolute')
    // The client merges DOCKER_HOST into what it is given, and a host given there would win over the socket here.
    return new Docker({ socketPath, host: undefined, port: undefined })
  }
  if (!URL.canParse(address)) throw bad('not a URL')
  const url = new URL(address)
  if (!['tcp:', 'http:', 'https:'].includes(url.protocol)) throw bad(`cannot speak ${url.protocol.slice(0, -1)}`)
  if (url.hostname === '') throw bad('no host')
  if (host === undefined) return new Docker()
  const secure = url.protocol === 'https:'
  return new Docker({
    protocol: secure ? 'https' : 'http',
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? (secure ? 2376 : 2375) : Number(url.port),
  })
}

/** The Unix socket of an engine that has one: only such a one can be on this machine. */
export const socketOf = (docker: Docker): string | undefined => (docker.modem as { socketPath?: string }).socketPath

/**
 * Puts one question to the engine: the answer, or an EngineError that says what was asked.
 * @param what completes "cannot …", for the message.
 * @param call gets a signal to hand to dockerode. Where dockerode ignores it, and where a connection that breaks amid
 *   an answer leaves its promise unsettled, the deadline still holds.
 */
export async function ask<T>(what: string, call: (signal: AbortSignal) => Promise<T>, deadline = DEADLINE): Promise<T> {
  const controller = new AbortController()
  const timer = setTimeout(
    () => controller.abort(new EngineError('no-engine', `cannot ${what}: no answer within ${deadline / 1000} s`)),
    deadline,
  )
  try {
    return await unlessAborted(call(controller.signal), controller.signal)
  } catch (error) {
    throw engineError(what, controller.signal.aborted ? controller.signal.reason : error)
  } finally {
    clearTimeout(timer)
  }
}

/** What the engine says of itself, as far as the node reads it. */
export interface EngineState {
  /** Host name of the machine. */
  Name: string
  NCPU: number
  MemTotal: number
  /** The kernel's word for the processor, as `uname -m` prints it. */
  Architecture: string
  DriverStatus?: [string, string][]
  /** The folder of all that it keeps. */
  DockerRootDir: string
}

// These two take a signal, of which dockerode's types do not know.
interface Questions {
  info(options: { abortSignal: AbortSignal }): Promise<EngineState>
  version(options: { abortSignal: AbortSignal }): Promise<Docker.DockerVersion>
}

export const askState = (docker: Docker, deadline?: number): Promise<EngineState> =>
  ask('ask for its state', (abortSignal) => (docker as unknown as Questions).info({ abortSignal }), deadline)

export const askVersion = (docker: Docker, deadline?: number): Promise<Docker.DockerVersion> =>
  ask('ask for its version', (abortSignal) => (docker as unknown as Questions).version({ abortSignal }), deadline)

/**
 * What a promise comes to, unless the signal aborts before: then its reason is thrown. Racing the promise with one of
 * the abort would do the same, but each race leaves its value behind at a promise that outlives it: of a stream, every
 * chunk.
 */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

/** What was thrown, as an EngineError; a MeshError is passed on as it is. */
function engineError(what: string, error: unknown): MeshError {
  if (error instanceof MeshError) return error
  const { statusCode, json, code } = error as { statusCode?: number; json?: { message?: string }; code?: string }
  if (statusCode === undefined) {
    const hint =
      code === 'EACCES' ? 'this user may not use its socket (add it to the group "docker")' : 'is Docker running?'
    return new EngineError('no-engine', `cannot ${what}: ${messageOf(error)}; ${hint}`, { cause: error })
  }
  // dockerode's own message is the engine's with a preamble.
  const reason =
    json?.message ??
    messageOf(error)
      .replace(/^\(HTTP code \d+\) .*? - /, '')
      .trim()
  const absent = statusCode === 404 && /no such image/i.test(reason)
  return new EngineError(absent ? 'no-image' : 'refused', `cannot ${what}: ${reason}`, {
    cause: error,
    status: statusCode,
  })
}

/** Turns an EngineError with one of the statuses into `undefined`; 404 is "there is none", 304 "it is so already". */
export async function unless<T>(statuses: number[], answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof EngineError && error.status !== undefined && statuses.includes(error.status)) return undefined
    throw error
  }
}

/** What the engine says while it works: pull, load and build alike. */
export interface Progress {
  stream?: string
  status?: string
  id?: string
  progressDetail?: { current?: number; total?: number }
  aux?: { ID?: string }
  error?: string
  errorDetail?: { message?: string }
}

/**
 * Runs something that takes as long as it takes (load, build, pull): resolves once the engine has said that it is done.
 * Hung is what neither takes nor says anything for five minutes.
 * @param source what is sent. Where it fails, that failure is thrown, and the engine never sees an end of it.
 * @throws EngineError `refused` with the engine's reason, which comes amid an answer that began with status 200.
 */
export async function work(
  what: string,
  source: AsyncIterable<Uint8Array> | null,
  begin: (body: Readable, signal: AbortSignal) => Promise<NodeJS.ReadableStream>,
  onProgress: (message: Progress) => void = () => {},
): Promise<void> {
  const idle = new Idle(what)
  let failure: { cause: unknown } | undefined
  async function* watched() {
    if (source === null) return
    const chunks = source[Symbol.asyncIterator]()
    try {
      for (;;) {
        // Waiting for the source is no fault of the engine.
        idle.stop()
        const next = await chunks.next().catch((error) => {
          failure = { cause: error }
          throw error
        })
        idle.touch()
        if (next.done) return
        yield next.value
      }
    } finally {
      await chunks.return?.()
    }
  }
  const body = Readable.from(watched(), { objectMode: false })
  // Whoever pipes it listens too; but nobody does before a connection stands.
  body.on('error', () => {})
  try {
    const answer = (async () => {
      for await (const message of messages(await begin(body, idle.signal))) {
        idle.touch()
        const reason = message.errorDetail?.message ?? message.error
        if (reason !== undefined) throw new EngineError('refused', `cannot ${what}: ${reason.trim()}`)
        onProgress(message)
      }
    })()
    await unlessAborted(answer, idle.signal)
  } catch (error) {
    throw failure?.cause ?? engineError(what, idle.signal.aborted ? idle.signal.reason : error)
  } finally {
    idle.stop()
    // An engine that answers before it has all leaves the rest behind.
    body.destroy()
  }
}

class Idle {
  private readonly controller = new AbortController()
  private timer: NodeJS.Timeout | undefined

  constructor(private readonly what: string) {
    this.touch()
  }

  get signal(): AbortSignal {
    return this.controller.signal
  }

  touch(): void {
    clearTimeout(this.timer)
    const error = new EngineError('no-engine', `cannot ${this.what}: nothing happened for ${IDLE / 1000} s`)
    // A source that yields once more after all is over sets it again: it must not keep the process alive.
    this.timer = setTimeout(() => this.controller.abort(error), IDLE).unref()
  }

  stop(): void {
    clearTimeout(this.timer)
  }
}

/** The engine's stream of JSON documents, one a line. */
async function* messages(stream: NodeJS.ReadableStream): AsyncGenerator<Progress> {
  let rest = ''
  stream.setEncoding('utf8')
  for await (const chunk of stream) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (line.trim() !== '') yield JSON.parse(line) as Progress
  }
  if (rest.trim() !== '') yield JSON.parse(rest) as Progress
}

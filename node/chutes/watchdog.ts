// The watchdog: a process of its own that kills the containers of exclusive instances when their lease is over, whatever has
// become of the node and of the container engine. It outlives the node; the next one finds it at its socket and goes on.
// It knows no lease and no chute, only containers and the end of their time. It loads nothing that it can do without.
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request as ask } from 'node:http'
import { connect, createServer, type Socket } from 'node:net'
import { setPriority } from 'node:os'
import { bootClock } from '../boot-clock.js'

/**
 * Milliseconds between two looks at the processes of what is over. A container that an engine starts too late lives no
 * longer than that; an engine takes longer to bring one up, so that the program in it is seldom reached.
 */
const LOOK = 50
/** Milliseconds between two looks at the clock: a machine that slept may wake up past the end. */
const LOOK_AT_CLOCK = 500
/** A node that has just started a watchdog connects within so many milliseconds. */
const PATIENCE = 5000

/**
 * An engine that hangs may start in an hour what a dead node asked of it. One that has answered for so long, in
 * milliseconds, has nothing of that left.
 */
const ENGINE_CATCHES_UP = 30_000
const ASK_ENGINE_EVERY = 2000

/** One line of JSON each way: what the node asks, with a number, and that number once it holds. */
export type WatchdogRequest =
  | {
      n: number
      key: string
      /** Ids of all the containers of an instance. */
      ids: string[]
      /** When they must be dead, on `bootClock`. */
      until: number
      /** Whether the engine was, or is about to be, asked to start them and has not answered yet. */
      starting: boolean
    }
  | { n: number; drop: string }
export type WatchdogReply = { n: number } | { guards: Record<string, WatchedContainers> }

export interface WatchedContainers {
  readonly ids: readonly string[]
  readonly until: number
  readonly starting: boolean
}

interface Guarded {
  ids: string[]
  until: number
  /** Those that may yet be started. */
  starting: Set<string>
  isOver: boolean
}

const [socketPath, engineSocket] = process.argv.slice(2) as [string, string]
const guards = new Map<string, Guarded>()
const nodes = new Set<Socket>()
const startedAt = bootClock()
let timer: NodeJS.Timeout | undefined
let askedAt = startedAt
let answersSince: number | undefined

function take(request: WatchdogRequest): void {
  if ('drop' in request) {
    guards.delete(request.drop)
    return
  }
  const { key, ids, until, starting } = request
  guards.set(key, { ids, until, starting: new Set(starting ? ids : []), isOver: false })
}

/** Kills what runs in these containers. Returns those in which something did. */
function kill(ids: readonly string[]): Set<string> {
  const found = new Set<string>()
  for (const pid of readdirSync('/proc')) {
    if (!(Number(pid) > 0)) continue
    try {
      // With either driver and either version of cgroups, the path of a container's cgroup has its id in it.
      const groups = readFileSync(`/proc/${pid}/cgroup`, 'latin1')
      const id = ids.find((one) => groups.includes(one))
      if (id === undefined) continue
      found.add(id)
      process.kill(Number(pid), 'SIGKILL')
    } catch {
      // It ended meanwhile.
    }
  }
  return found
}

function look(): void {
  clearTimeout(timer)
  const now = bootClock()
  const due = [...guards.values()].filter(({ until, isOver }) => now >= until && !isOver)
  if (due.length > 0) {
    const found = kill(due.flatMap(({ ids }) => ids))
    for (const guard of due) {
      guard.isOver = guard.starting.size === 0 && !guard.ids.some((id) => found.has(id))
    }
  }
  // While the node lives, it is the one to say what became of a start.
  if (nodes.size > 0) answersSince = undefined
  else if (now - askedAt > ASK_ENGINE_EVERY) askEngine(now)
  if (answersSince !== undefined && now - answersSince > ENGINE_CATCHES_UP) {
    for (const { starting } of guards.values()) starting.clear()
  }
  const isIdle = nodes.size === 0 && [...guards.values()].every(({ isOver }) => isOver)
  if (isIdle && now - startedAt > PATIENCE) end()
  const ends = [...guards.values()].filter(({ isOver }) => !isOver).map(({ until }) => until - now)
  timer = setTimeout(look, Math.max(LOOK, Math.min(LOOK_AT_CLOCK, ...ends)))
}

/** About each container that may yet be started: while a start of it is under way, the engine does not answer that. */
function askEngine(now: number): void {
  askedAt = now
  const ids = [...guards.values()].flatMap(({ starting }) => [...starting])
  let unanswered = ids.length
  for (const id of ids) {
    const path = `/containers/${id}/json`
    const asked = ask({ socketPath: engineSocket, path, timeout: ASK_ENGINE_EVERY, agent: false })
    asked.on('response', (response) => {
      response.resume()
      unanswered--
      if (unanswered === 0) answersSince ??= now
    })
    asked.on('timeout', () => asked.destroy(new Error('no answer')))
    asked.on('error', () => {
      answersSince = undefined
    })
    asked.end()
  }
}

function end(): never {
  rmSync(socketPath, { force: true })
  process.exit(0)
}

function serve(node: Socket): void {
  nodes.add(node)
  const send = (reply: WatchdogReply) => node.write(`${JSON.stringify(reply)}\n`)
  const watched = ([key, { ids, until, starting }]: [string, Guarded]) => [
    key,
    { ids, until, starting: starting.size > 0 },
  ]
  send({ guards: Object.fromEntries([...guards].map(watched)) })
  let rest = ''
  node.setEncoding('utf8')
  node.on('data', (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      const request = JSON.parse(line) as WatchdogRequest
      take(request)
      send({ n: request.n })
    }
    look()
  })
  node.on('error', () => {})
  node.on('close', () => nodes.delete(node))
}

/** Serves at the socket, unless another watchdog does. */
function listen(isSecondTry = false): void {
  const server = createServer(serve)
  server.on('error', () => {
    if (isSecondTry) process.exit(1)
    const other = connect(socketPath)
    other.on('connect', () => process.exit(0))
    other.on('error', () => {
      rmSync(socketPath, { force: true })
      listen(true)
    })
  })
  server.listen(socketPath, look)
}

/** When the AP is short of CPU or memory, this is not what should suffer. Both take rights that not every AP has. */
function becomeImportant(): void {
  try {
    setPriority(-19)
    writeFileSync('/proc/self/oom_score_adj', '-1000')
  } catch {
    // It works without.
  }
}

process.umask(0o177)
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {}) // it ends by itself
becomeImportant()
listen()

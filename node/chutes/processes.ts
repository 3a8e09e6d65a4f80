// What runs on this machine, by /proc.
import { readdir, readFile, readlink } from 'node:fs/promises'

// State of a listening TCP socket, and of a bound UDP one, in the fourth field (Linux, net/tcp_states.h).
const LISTENS = { tcp: '0A', udp: '07' }

/**
 * Who has a port of this machine, for the message to a person whose chute wants it: `node (pid 4711)`, or undefined where it
 * cannot be learnt. A guess at best: it may be gone by the time it is asked for, and root alone sees other users' processes.
 */
export async function processAtPort(port: number, protocol: 'tcp' | 'udp'): Promise<string | undefined> {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const tables = await Promise.all([`${protocol}`, `${protocol}6`].map((table) => read(`/proc/net/${table}`)))
  const sockets = tables
    .flatMap((table) => table.split('\n').map((line) => line.trim().split(/\s+/)))
    .filter(([, local, , state]) => local?.endsWith(suffix) && state === LISTENS[protocol])
    .map((fields) => `socket:[${fields[9]}]`)
  if (sockets.length === 0) return undefined
  for (const pid of await list('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    for (const descriptor of await list(`/proc/${pid}/fd`)) {
      const target = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '')
      if (sockets.includes(target)) return `${(await read(`/proc/${pid}/comm`)).trim()} (pid ${pid})`
    }
  }
  return undefined
}

/** True where this process sees another of that name: in a container of its own it does not. */
export async function isRunningHere(name: string): Promise<boolean> {
  const pids = (await list('/proc')).filter((entry) => /^\d+$/.test(entry))
  return (await Promise.all(pids.map((pid) => read(`/proc/${pid}/comm`)))).some((comm) => comm.trim() === name)
}

const read = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')

const list = (path: string): Promise<string[]> => readdir(path).catch(() => [])

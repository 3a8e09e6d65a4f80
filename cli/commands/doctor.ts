// `dropmesh doctor`: looks at what an AP needs, and says what to do about each finding.
import { mkdir, statfs } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Command } from 'commander'
import type { Status } from '../../node/api/queries.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { clientOf, dataDir, forNode, type NodeOptions } from '../options.js'
import { colour, gib, print, printJson } from '../output.js'

interface Finding {
  check: string
  ok: boolean
  finding: string
  /** What to do, where it is not ok. */
  advice: string | null
}

/** A node needs little; images need room. */
const DISK_WANTED = 2 * 1024 ** 3
const CLOCK_TOLERANCE_MS = 60_000
const DEFAULT_PORT = 4010

export function addDoctor(program: Command): void {
  const command = program
    .command('doctor')
    .description('check Docker, clock, disk, ports, peers and UDP, and say what to do')
  forNode(command, 'dropmesh doctor').action(doctor)
}

async function doctor(options: NodeOptions): Promise<void> {
  const status = await clientOf(options)
    .get<Status>('/v1/status')
    .catch((error) => error as Error)
  const findings = [
    checkNode(status),
    await checkEngine(status),
    checkClock(status),
    await checkDisk(dataDir(options)),
    await checkPort(status),
    checkPeers(status),
    ...checkDatagrams(status),
    ...(status instanceof Error
      ? []
      : status.warnings.map((warning) => bad('warning', warning, 'see "dropmesh events"'))),
  ]
  if (options.json) printJson(findings)
  else {
    for (const { check, ok, finding, advice } of findings) {
      print(`${ok ? colour.green('ok  ') : colour.red('FAIL')}  ${check.padEnd(8)} ${finding}`)
      if (advice !== null) print(`                ${advice}`)
    }
  }
  const failed = findings.filter(({ ok }) => !ok).length
  if (failed > 0) throw new MeshError('unwell', `${failed} of ${findings.length} checks failed`)
}

const good = (check: string, finding: string): Finding => ({ check, ok: true, finding, advice: null })
const bad = (check: string, finding: string, advice: string): Finding => ({ check, ok: false, finding, advice })

function checkNode(status: Status | Error): Finding {
  if (status instanceof Error) return bad('node', status.message, 'start it: dropmesh up')
  const { ap, state, mesh } = status
  if (state !== 'joining') return good('node', `AP ${ap.name} is ${state} in mesh ${mesh}`)
  return bad(
    'node',
    `AP ${ap.name} is not let into mesh ${mesh} yet`,
    'check that a member is reachable, or get a new ticket: dropmesh invite',
  )
}

async function checkEngine(status: Status | Error): Promise<Finding> {
  if (!(status instanceof Error) && status.docker !== null)
    return good('docker', `engine ${status.docker.version} answers the node`)
  try {
    // Loaded only here: it takes longer than all the rest of the command line.
    const { connectDocker } = await import('../../node/chutes/docker-client.js')
    const { Version } = await connectDocker().version()
    return good('docker', `engine ${Version} answers`)
  } catch (error) {
    return bad(
      'docker',
      `no engine answers: ${messageOf(error)}`,
      'install and start one (Debian: apt-get install docker.io), or name it with --docker-host',
    )
  }
}

function checkClock(status: Status | Error): Finding {
  const year = new Date().getUTCFullYear()
  if (year < 2024) return bad('clock', `this machine believes it is ${year}`, 'set the clock, and run an NTP client')
  if (status instanceof Error) return good('clock', new Date().toISOString())
  const behind = Date.parse(status.time) - Date.now()
  if (behind > CLOCK_TOLERANCE_MS) {
    return bad(
      'clock',
      `this machine is ${Math.round(behind / 1000)} s behind the mesh`,
      'set the clock, and run an NTP client',
    )
  }
  return good('clock', `${new Date().toISOString()}, in step with the mesh`)
}

async function checkDisk(data: string): Promise<Finding> {
  try {
    await mkdir(data, { recursive: true, mode: 0o700 })
    const { bavail, bsize } = await statfs(data)
    const free = bavail * bsize
    if (free < DISK_WANTED)
      return bad('disk', `${gib(free)} free for ${data}`, `images need room: free at least ${gib(DISK_WANTED)}`)
    return good('disk', `${gib(free)} free for ${data}`)
  } catch (error) {
    return bad('disk', `${data}: ${messageOf(error)}`, 'choose another folder with --data')
  }
}

async function checkPort(status: Status | Error): Promise<Finding> {
  if (!(status instanceof Error)) {
    const ports = [...new Set(status.addresses.map((address) => /\/tcp\/(\d+)/.exec(address)?.[1]))]
    return good('port', `the node listens on TCP ${ports.join(', ')}`)
  }
  const taken = await new Promise<string | undefined>((resolve) => {
    const server = createServer()
    server.once('error', (error) => resolve(messageOf(error)))
    server.listen(DEFAULT_PORT, '0.0.0.0', () => server.close(() => resolve(undefined)))
  })
  if (taken === undefined) return good('port', `TCP ${DEFAULT_PORT} is free`)
  return bad(
    'port',
    `TCP ${DEFAULT_PORT}: ${taken}`,
    'the node will take another one; open that in your firewall, or choose one with --listen',
  )
}

function checkPeers(status: Status | Error): Finding {
  if (status instanceof Error) return bad('peers', 'not known while the node does not run', 'start it: dropmesh up')
  const { peers, members } = status
  if (members <= 1) return good('peers', 'this AP is alone in its mesh; invite others with "dropmesh invite"')
  const finding = `connected to ${peers} of ${members - 1} other members`
  return peers > 0
    ? good('peers', finding)
    : bad('peers', finding, 'check the network between the APs; see "dropmesh aps"')
}

// Without datagrams all works, but a lossy or busy link looks like a death sooner.
function checkDatagrams(status: Status | Error): Finding[] {
  if (status instanceof Error || status.datagrams.watchers === 0) return []
  const { watchers, heardBy } = status.datagrams
  const finding = `${heardBy} of ${watchers} watchers hear the pulses of this AP by UDP`
  if (heardBy > 0) return [good('udp', finding)]
  return [bad('udp', finding, 'they hear them by TCP, which stalls on bad links: let UDP pass on the port of the node')]
}

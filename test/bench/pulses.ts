// How evenly pulses arrive, by stream and by datagram, between two hosts: behind a package that is fetched as fast as the link
// of the pulsing AP goes, and where packets are lost.
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { apId, hex } from '../../protocols/bytes.js'
import { apSigner } from '../../protocols/keys.js'
import { TIMING } from '../../protocols/roster.js'
import { Realm, seed } from '../node/realm.js'
import { type Host, type Hosts, makeHosts } from '../support/hosts.js'
import { until } from '../support/until.js'
import { report, summary } from './measure.js'
import type { PulserOptions } from './pulser.js'

const RUNS = 5
const WINDOW_MS = 20_000
const MBITS = 10
const LOSS = 25
/** Bytes that are fetched meanwhile: more than come in all windows, and at twice the rate of the link in between. */
const PACKAGE = 1000e6
const RATE = (2 * MBITS * 1e6) / 8
const pulser = fileURLToPath(new URL('pulser.js', import.meta.url))

export async function pulses(): Promise<void> {
  const lan = await makeHosts(2)
  const children: ChildProcess[] = []
  try {
    const realm = new Realm()
    const seeds = [seed(), seed()] as const
    const ids = seeds.map((own) => apId(apSigner(own).publicKey))
    const records = [realm.grant, ...seeds.map((own, i) => realm.member(apSigner(own), `ap${i}`))]
    const start = async (i: 0 | 1, addresses: string[]) => {
      const { mesh, text, owner } = realm
      const host = lan.hosts[i]!
      const options: PulserOptions = {
        ...{ mesh: hex(mesh), text, owner: hex(owner.publicKey), seed: hex(seeds[i]) },
        ...{ records: records.map(({ bytes }) => hex(bytes)), listen: `/ip4/${host.address}/tcp/0` },
        ...{ other: ids[1 - i]!, addresses, gives: i === 0 ? PACKAGE : 0, rate: RATE },
      }
      const child = host.exec([process.execPath, pulser, JSON.stringify(options)], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      children.push(child)
      return { child, ...(await listenTo(child)) }
    }
    const watched = await start(0, [])
    const watcher = await start(1, watched.addresses)
    const { arrivals } = watcher
    await until('pulses', () => arrivals.length > 4)
    const measure = async (): Promise<Sample> => {
      await rest(3000) // until it is as it will be
      const from = arrivals.length
      await rest(WINDOW_MS)
      const window = arrivals.slice(from)
      const gaps = window.slice(1).map(({ at }, i) => at - window[i]!.at)
      const late = gaps.map((gap) => Math.abs(gap - TIMING.pulse)).sort((x, y) => x - y)
      const bytes = window.at(-1)!.fetched - window[0]!.fetched
      return {
        longest: Math.max(...gaps) / 1000,
        jitter: late[Math.floor(late.length * 0.95)]!,
        mbits: (bytes * 8) / 1e6 / ((window.at(-1)!.at - window[0]!.at) / 1000),
      }
    }
    const compare = async (what: string, ways: Record<string, (lan: Hosts) => void>, setUp: (host: Host) => void) => {
      const samples: Record<string, Sample[]> = {}
      for (let run = 0; run < RUNS; run++) {
        for (const [way, only] of Object.entries(ways)) {
          lan.heal()
          const [before, whole] = [arrivals.length, performance.now()]
          await until('both to be well', () => arrivals.length > before + 6 && performance.now() > whole + 3000, {
            deadlineMs: 60_000,
          })
          setUp(lan.hosts[0]!)
          only(lan)
          samples[way] = [...(samples[way] ?? []), await measure()]
        }
      }
      report(
        what,
        Object.entries(samples).flatMap(([way, of]) => [
          `${way.padEnd(22)} longest silence ${summary(
            of.map(({ longest }) => longest),
            's',
          )}`,
          `${''.padEnd(22)} 95 % come within ${summary(
            of.map(({ jitter }) => jitter),
            'ms',
            0,
          )} of ${TIMING.pulse} ms`,
          ...(of[0]!.mbits > 0
            ? [
                `${''.padEnd(22)} fetched meanwhile ${summary(
                  of.map(({ mbits }) => mbits),
                  'Mbit/s',
                  1,
                )}`,
              ]
            : []),
        ]),
      )
    }
    const [stream, both, alone] = ['by stream', 'by datagram and stream', 'by datagram alone']
    await compare(
      `Pulses at ${LOSS} % loss (${RUNS} windows of ${WINDOW_MS / 1000} s each)`,
      { [stream!]: () => lan.drop('udp'), [both!]: () => {}, [alone!]: () => lan.drop('tcp') },
      () => lan.lose(LOSS),
    )
    lan.heal()
    watcher.child.stdin!.write(JSON.stringify(watched.blob))
    await compare(
      `Pulses of an AP of which a package is fetched over its ${MBITS} Mbit/s (${RUNS} windows of ${WINDOW_MS / 1000} s each)`,
      { [stream!]: () => lan.drop('udp'), [both!]: () => {} },
      (host) => lan.slow(host, MBITS),
    )
  } finally {
    for (const child of children) child.kill('SIGKILL')
    lan.close()
  }
}

/** Of one window: seconds, milliseconds, and what was fetched meanwhile. */
interface Sample {
  longest: number
  jitter: number
  mbits: number
}

async function listenTo(child: ChildProcess) {
  const arrivals: { at: number; fetched: number }[] = []
  let start: { addresses: string[]; blob: object } | undefined
  let rest = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      const said = JSON.parse(line)
      if (said.addresses === undefined) arrivals.push(said)
      else start = said
    }
  })
  return { arrivals, ...(await until('a peer to listen', () => start, { deadlineMs: 60_000 })) }
}

const rest = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

// One that floods, in a process of its own. What it is comes as JSON in its only argument; it says when it is ready, floods
// from the first message on, and answers the second with how often it tried.
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { exchange } from '../../node/mesh/frames.js'
import { utf8 } from '../../protocols/bytes.js'
import { reachCard, sealDatagram } from '../../protocols/datagram.js'
import { readTicket } from '../../protocols/ticket.js'
import type { TestAp } from '../support/mesh.js'
import { dare, spoilt, Villain } from '../support/villain.js'
import type { FloodOptions } from './flood.js'

const TURN_MS = 10

const { role, way, address, ticket, rate } = JSON.parse(process.argv[2]!) as FloodOptions
const id = readTicket(ticket).addresses[0]!.split('/p2p/')[1]!
const target = { id, status: async () => ({ addresses: [address] }) } as unknown as TestAp
const villain = await Villain.appear(target, ticket)
if (role === 'member') await villain.join(ticket, `flooder-${way}`)
else if (way === 'streams') await villain.connect()

const udp = createSocket('udp4')
let card: { port: number; id: number; key: Uint8Array } | undefined
if (way === 'datagrams' && role === 'member') {
  const { stream, frames } = await villain.open(villain.ids.reach)
  card = await exchange(stream, async () => {
    await frames.write({ port: 9, id: 1, key: new Uint8Array(32) })
    return frames.read(reachCard)
  })
}
const bad = spoilt(villain.record('snapshot-head', utf8('flood'), {}).bytes)
const port = Number(/tcp\/(\d+)/.exec(address)![1])
let tried = 0
const under = { way: 0 }

const ways: Record<string, () => void> = {
  // A record that is another one each time, and whose signature is wrong.
  gossip() {
    const bytes = Uint8Array.from(bad)
    new DataView(bytes.buffer).setUint32(bytes.length - 8, tried)
    void villain.gossip(bytes)
  },
  datagrams() {
    const bytes = card ? sealDatagram(card.id, card.key, tried, utf8('no message')) : new Uint8Array(100).fill(tried)
    udp.send(bytes, card?.port ?? port, '127.0.0.1', () => {})
  },
  // As many as it can have under way at once, or it would be busy with itself alone.
  streams() {
    const connection = villain.host.getConnections().find(({ status }) => status === 'open')
    if (under.way > 50) return void tried--
    under.way++
    const open = async () => {
      if (connection === undefined) return void (await villain.dial())
      const stream = await connection.newStream(villain.ids.sync, { signal: AbortSignal.timeout(1000) })
      stream.abort(new Error('the next'))
    }
    void dare(open).finally(() => under.way--)
  },
  connections() {
    if (under.way > 200) return void tried--
    under.way++
    const socket = connect({ host: '127.0.0.1', port, localAddress: `127.0.0.${2 + (tried % 200)}` })
    socket.on('connect', () => socket.write('\x13/multistream/1.0.0\n'))
    socket.on('error', () => {})
    socket.on('close', () => under.way--)
    setTimeout(() => socket.resetAndDestroy(), 100)
  },
}

process.send!('ready')
await once(process, 'message')
const began = performance.now()
const timer = setInterval(() => {
  const due = Math.floor(((performance.now() - began) / 1000) * rate)
  // What could not be done in time is left out.
  for (let i = 0; i < (rate * TURN_MS) / 1000 && tried < due; i++) {
    tried++
    ways[way]!()
  }
}, TURN_MS)
await once(process, 'message')
clearInterval(timer)
process.send!(tried)

// A ticket that a camera reads off a terminal. What is printed is made a picture of and read by another library.
import jsqr from 'jsqr'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { qrCode } from '../../cli/qr.js'
import { writeTicket } from '../../protocols/ticket.js'
import { OWNER, record, seedOf, signer } from '../protocols/support.js'

const { default: decode } = jsqr as unknown as { default: typeof jsqr.default }

const ticketOf = (addresses: string[]): string => {
  const body = { role: 'ap', uses: 20, expires: 1_800_000_000_000, labels: { site: 'school' } } as const
  const grant = record(OWNER, 'grant', signer(9).publicKey, [1_790_000_000_000, 1], body).bytes
  return writeTicket({ meshKey: OWNER.publicKey, seed: seedOf(9), grant, addresses })
}

/** Lines as a terminal shows them, without their colours. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const linesOf = (text: string): string[] => text.split('\n').map((line) => line.replace(/\u001b\[[\d;]*m/g, ''))

/** What the picture of these lines says, each half of a character a square of three by three. */
function read(lines: readonly string[]): string | undefined {
  const SCALE = 3
  const isLight = { '█': [true, true], '▀': [true, false], '▄': [false, true], ' ': [false, false] } as const
  const rows = lines.flatMap((line) => [0, 1].map((half) => [...line].map((char) => isLight[char as ' '][half as 0])))
  const [width, height] = [rows[0]!.length * SCALE, rows.length * SCALE]
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const shade = rows[Math.floor(y / SCALE)]![Math.floor(x / SCALE)] ? 255 : 0
      pixels.fill(shade, 4 * (y * width + x), 4 * (y * width + x) + 3)
    }
  }
  return decode(pixels, width, height)?.data
}

const ADDRESS = '/ip4/192.168.100.200/tcp/4010/p2p/12D3KooWJqn4SQM6DdpiXGuaxrDGSJTNBaNH2qZg6dJimocbAG69'

test('a ticket is read off the terminal as it is, in capital letters, and fits 80 columns', () => {
  const ticket = ticketOf([ADDRESS])
  const lines = linesOf(qrCode(ticket))
  assert.is(read(lines), ticket.toUpperCase())
  assert.ok(
    lines.every((line) => [...line].length <= 80),
    `${[...lines[0]!].length} columns`,
  )
})

test('a code has white around it, which cameras look for, whatever the colours of the terminal are', () => {
  const [first, ...rest] = linesOf(qrCode(ticketOf([ADDRESS])))
  assert.match(first!, /^█+$/)
  for (const line of rest.slice(0, -1)) assert.match(line, /^██.*██$/)
  for (const line of qrCode(ticketOf([ADDRESS])).split('\n')) assert.ok(line.startsWith('\u001b[97;40m'))
})

test('a ticket with all the addresses that there may be is still a code', () => {
  const ticket = ticketOf(Array.from({ length: 12 }, () => ADDRESS))
  assert.is(read(linesOf(qrCode(ticket))), ticket.toUpperCase())
})

test.run()

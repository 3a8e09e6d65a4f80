// `token`: who may use the node's API over TCP (`up --http`).
import type { Command } from 'commander'
import type { TokenRow } from '../../node/api/tokens.js'
import { parseDuration } from '../duration.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { print, printJson, printTable, say } from '../output.js'

export function addToken(program: Command): void {
  const token = program.command('token').description('tokens for the API over TCP, which "up --http" serves')

  const making = token
    .command('new')
    .description('make a token; it stands alone on the last line, and cannot be shown again')
    .option('--write', 'it may change things, as who has the socket may (default: it only reads)')
    .option('--ttl <time>', 'how long it is good: 30m, 12h, 7d', '30d')
  forNode(making, 'curl -H "Authorization: Bearer $(dropmesh token new)" http://127.0.0.1:4080/v1/status').action(make)

  forNode(token.command('ls').description('tokens that are good'), 'dropmesh token ls').action(
    async (options: NodeOptions) => {
      const rows = await clientOf(options).get<TokenRow[]>('/v1/tokens')
      if (options.json) printJson(rows)
      else
        printTable(
          ['ID', 'RIGHT', 'UNTIL'],
          rows.map(({ id, right, until }) => [id, right, until]),
        )
    },
  )

  forNode(
    token.command('rm').argument('<id>', 'as "token ls" shows it').description('make a token worthless'),
    'dropmesh token rm 1f3a55c0',
  ).action(async (id: string, options: NodeOptions) => {
    const answer = await clientOf(options).post('/v1/tokens/remove', { id })
    if (options.json) printJson(answer)
    else print(`token ${id} is good for nothing any more`)
  })
}

async function make(options: NodeOptions & { write?: boolean; ttl: string }): Promise<void> {
  const body = { right: options.write ? 'write' : 'read', age: parseDuration(options.ttl, '--ttl') }
  const answer = await clientOf(options).post<TokenRow & { token: string }>('/v1/tokens', body)
  if (options.json) {
    printJson(answer)
    return
  }
  say(`token ${answer.id}: ${answer.right}, until ${answer.until}`)
  print(answer.token)
}

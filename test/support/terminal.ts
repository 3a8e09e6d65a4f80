// A person at a terminal, for commands that ask one: a pseudo-terminal of its own, by `script` of bsdutils.
import { spawn } from 'node:child_process'
import { main } from './mesh.js'

const quoted = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`

export interface Session {
  status: number
  /** All that stood on the terminal. */
  screen: string
}

/**
 * Runs the command line at a terminal, and types each answer when its prompt has come, in that order.
 * @param answers without their newlines
 */
export function atTerminal(
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  answers: readonly (readonly [prompt: RegExp, text: string])[],
): Promise<Session> {
  const command = [process.execPath, main, ...args].map(quoted).join(' ')
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, SHELL: '/bin/sh', ...env },
  })
  const open = [...answers]
  let screen = ''
  let seen = 0
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    screen += text
    const [prompt, answer] = open[0] ?? []
    const found = prompt?.exec(screen.slice(seen))
    if (!found) return
    seen += found.index + found[0].length
    open.shift()
    child.stdin.write(`${answer}\r`)
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => {
      if (open.length > 0) reject(new Error(`the prompt ${open[0]![0]} never came; the screen: ${screen}`))
      else resolve({ status: status ?? 1, screen })
    })
  })
}

"""The filter table of `IPTABLES_FILTER` as a kernel gives it for iptables-legacy, recorded on Linux 6.18, x86-64.

For kernels that have no iptables-legacy any more.
"""

from __future__ import annotations

import base64
import zlib


def recorded(version: int) -> tuple[bytes, bytes]:
    """struct ipt_getinfo, and the entries, of this version of IP."""
    info, entries = _RECORDED[version]
    return zlib.decompress(base64.b85decode(info)), zlib.decompress(base64.b85decode("".join(entries)))


_RECORDED = {
    4: (
        "c-l+L%qdANV!#RbfcQTUfY<>{3=AiDA$$<n!N|a10OU9DL&QvgYB(Gj7y#oo6|M",
        (
            "c-rk+O>fgM7<RI%>IrcK35lH0q!HAQjlnK336KziPSGm3MsBKxwsDkt3cK+WIQGa-",
            "n6wK=j{ON7Ir1Nn7LvB<my#y9aq7i>qu5og#E##`kDu2z0Cen|^h1&({#PW31_Q&wG0#E0Z=RTzeSsHA4e(?83FXRty7k*&1Z0AC",
            "-FTiyvt0q6N~Cz|Ajj36_AILkJS}W|mu~%}ezOo(P)C`#Pf<TleyDGn+Q(DvmGGNi{(^4(Kczq9<85HJ+kIo2R;yf%w<;LuPA|4t",
            "0wCzs($0CcJj=g>F(^fT2Zr{>H+bGPxMpU4_$^oVi1DgJXxMm~a)#HW{y9T^6J9FD7u(NG+`m+&-",
            "DI>CTZcUZKjD2mOVg|fIw|<n@aAkB?1T5G+Pm0ddEL)6ba#nS-CZHY6S}~D_%=<s!&3t9KA<1RRT#vR4Xz^pe+gb|T2qUCZddw0%",
            "eb>H_;iU+1G~d!{Ice^hKOI5^bYthy`wyg@8^S!(M38Q%5r=jiuq}7T_xRnNd1_l-",
            ";RXe<~E`%vPgC6UzT;n+Ye{0bGmq6pZYS|AE^db7x-",
            "V`;DkQ@<)Y!g**Z@>05atNtl~<6|2%O<7FRNj|BizOYS*yUnWD(SkA<8^C;jO5)wVgbbqu=+yiq&Y%o|?Hd9+NdBmMS<w^*NA_4g",
            "yX^<T-",
            "q<gEP06aOdmPs{3A$h8#H!iLk)p#k`^BwTwr%#Y=w^SWBw%<J{W;nCCMXU`)T)myVXc)cO;Kev02Zx65Yv>qpTUGRGTyzZ(=e4Vv",
            "@lD}@j4{mr(*1dSr>tg_sWno8$k()Dn?6o-",
            "hyu_}@@pigm6@OwscUiR2KOa*#{>3QeYDpG4d!eg|_uViGFYfp^ao^#XzOK&7Z(_Yf=xUa9b>Y^*asIk`J6?Cgi$h+&o#%d;#=kF",
            "Wd}-4~L!6r*w>nP|v^2bhu353P=fGI-n>Yusu$vs_?IN9nLAYx;!~FfoF8_~+aL1~DH<tqN4>DSfPy",
        ),
    ),
    6: (
        "c-l+L%qdANV!#RbfcQTUfY=9^fS4b`2Z0Za3=AKD3N{Er#7ux{GJF^q01W*Xt^",
        (
            "c-rk-J!{)Q7(U6yWGaC!T?!gX38X5HowQ9S2h!3|S_cu+wL+G$YFj7d3rhY$$Nq$l*|X#)Wc1jvqsNYgLR87J{DoyTzH>S0-",
            "bY9_95{FPzRx}HbGjhJ4{oJjlAO?{NCxipOq(RM8+zAzZQ0H_nLhTAIM_*P-",
            "+s(rpRdpW$!m`1&i8%Z#uMgmktTmz*!6U`IsPa^{!Y<;$X}mn;%#H1;FdB9yP|#>eNo@mwNFRdF~l38pC|nF`M0FVRQ&E)&1Tn(p",
            "5?Mo{4S%O?sgKJC4|D6EoN^0FOB*h;YaYjm^gl7I4gh2_pi})ruFYpp;n;chi(|AL!zf({79RhQ{1(TOU1l!f=`QdFO_JT%%<Y#M",
            "#m)2MPEN8G($x(>&I}4;#)BO?4S=v+WW+2c`-kD@ju0!`JXMC{Ke-au<g-Pxcps>8--",
            "8*zLlf=y+Xspwi<e)X>~2JJxl(L^*%)fbY@0pLOjTqZ(WFY6@2SV-HGm1cYc1tre9%Pc2~N|e_vl&uLt{}+fz^cbTfaKCjPABeE{",
            "*EV0g%9owlye_>;#v?d0QW<BUIEj!~TDDWmtH<q#F%=>+eN`Q)h#Je~5i-",
            "Z<MBQ5owg%Y6^vDerl`{=P>pdD?PuPi>oyI<5#g%{8clmc`BMs!gl!=)`C<UQhRSSFfl3J?fwmm0t<Q8Q-",
            "w4Jcq$E{`x$Ww+k%eEs~z5%}>Mb*x0ib%O<AV(hU=dg)~0+oYos9(5+<MQrWHOBi*W0_YYpYe08`)Df|WePu;2lPbc`w;bgGZEs^",
            "%oLAOA+@~>N-nx-#2;G29S)2(A(e2w;<Me<v>$iTKuT-{ju(zw81kC&f|%i?-",
            "NUvJIlEu3qafZOwvpf5A}Lhy!m^O*RgIbTF|{(#{45>8*z^7?y?PhZ3`-",
            "msqsz9{Ry2;M`@>Q**<5xs7C@g<;ciS_?Ex#Ve3Tm~g(8}|v{9-",
            "Q{vTsXq`hWc_2n>x?TQ@r8))f9J})=zLwG6E)T)9q&?*Yc;QgSB~;w>(_kiqKy=LZ3z",
        ),
    ),
}
